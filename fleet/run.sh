#!/usr/bin/env bash
# One plan from several machines: every host sends its shard over ssh, all from one instant, round
# by round; then one report. The hosts need sshd and kvload. Plan and key reach them by stdin:
# nothing is written there, and no key is in a list of processes.
#   fleet/run.sh --hosts a,user@b:2222,2/c --url [ROUND=]URL [--url 2=URL_B] [--model M]
#       [--scenario NAME] [--plan "KVPLAN'S FLAGS"] | [--workload FILE]   what is sent
#       [--load "KVLOAD'S FLAGS"]            how: --rate, --concurrency, --engine, ...
#       [--clear "KVCLEAR'S FLAGS"]          before each cold round; its record travels along
#       [--between "KVCLEAR'S FLAGS"]        before each hit round (--local-only ...)
#       [--rounds 1,2] [--repeats 1] [--lead 60] [--limit S] [--key-file F]
#       [--kvload PROGRAM] [--ssh PROGRAM] [-o DIR]
# Exit status: 0 all was sent and reported; 1 a shard was lost, or requests failed (the rest is
# reported); 2 it could not run.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
die() {
    echo "fleet: $1" >&2
    exit 2
}
say() { echo "fleet: $1" >&2; }
usage() {
    die "which machines? say make fleet HOSTS=a,user@b:2222,2/c URL=http://HOST:8000 [PLAN='--contexts 32'] [LOAD='--rate 40'], see docs/fleet.md"
}

hosts='' urls=() model=() scenario=long_context_high_reuse workload='' plan='' load='' clear=''
between='' rounds=1,2 repeats=1 lead=60 limit='' key_file='' kvload=kvload ssh=ssh out=''
while (($#)); do
    [[ $# -ge 2 && -n $2 ]] || usage
    case $1 in
    --hosts) hosts=$2 ;;
    --url) urls+=("$2") ;;
    --model) model=(--model "$2") ;;
    --scenario) scenario=$2 ;;
    --workload) workload=$2 ;;
    --plan) plan=$2 ;;
    --load) load=$2 ;;
    --clear) clear=$2 ;;
    --between) between=$2 ;;
    --rounds) rounds=$2 ;;
    --repeats) repeats=$2 ;;
    --lead) lead=$2 ;;
    --limit) limit=$2 ;;
    --key-file) key_file=$2 ;;
    --kvload) kvload=$2 ;;
    --ssh) ssh=$2 ;;
    -o) out=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[[ -n $hosts && ${#urls[@]} -gt 0 ]] || usage
[[ $rounds =~ ^[0-9](,[0-9])*$ ]] || die "ROUNDS: 1,2 is cold and hit; 0 is the control without reuse"
[[ $repeats =~ ^[1-9][0-9]{0,3}$ ]] || die 'REPEATS: a number is wanted'
[[ $lead =~ ^[1-9][0-9]{0,4}$ ]] || die 'LEAD: whole seconds are wanted'
[[ $limit =~ ^([1-9][0-9]*)?$ ]] || die 'LIMIT: whole seconds are wanted'
[[ $(parallel --version 2>/dev/null) == GNU* ]] ||
    die 'GNU parallel is missing (apt-get install parallel; that of moreutils is another)'

# words NAME VALUE: into the array `found`, what a shell would part, nothing expanded or run.
found=()
words() {
    python "$here/hosts.py" words "$1" "$2" >"$work/words"
    mapfile -d '' -t found <"$work/words"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/kvworth-fleet.XXXXXX")
job=''
stop() {
    trap - EXIT
    # Everything that it began: parallel, and every ssh with it.
    [[ -z $job ]] || kill -TERM -- "-$job" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'say "interrupted; what had come back is in $out"; exit 130' INT
trap 'say "interrupted; what had come back is in $out"; exit 143' TERM

python "$here/hosts.py" reach "$ssh" "$hosts" >"$work/hosts"
names=() reaches=()
while IFS=$'\t' read -r name reach; do
    names+=("$name") reaches+=("$reach")
done <"$work/hosts"
count=${#names[@]}

words LOAD "$load"
flags=(${found[@]+"${found[@]}"})
for word in ${flags[@]+"${flags[@]}"}; do
    case ${word%%=*} in
    --shard | --start-at | --round | --rounds | --repeat | --repeats | --salt | --experiment | \
        --workload | --scenario | --config | --isolation | --keep-plan | --until | --aa)
        die "LOAD: ${word%%=*} is the fleet's to say" ;;
    --api-key-file) die 'LOAD: --api-key-file would be a file of every host: say KEY_FILE=FILE' ;;
    esac
done
words KVLOAD "$kvload"
program=("${found[@]}")

# The key: of a file here, else of the variable that every tool knows. It travels by stdin alone.
key=()
if [[ -n $key_file || -n ${OPENAI_API_KEY-} ]]; then
    (umask 077 && python -c 'import sys; from kvengine.access import api_key
print(api_key(sys.argv[1] or None))' "$key_file" >"$work/key" 2>/dev/null) ||
        die "KEY_FILE: $key_file: no key can be read from it"
    [[ $(wc -l <"$work/key") == 1 ]] || die 'KEY_FILE: a key of one line is wanted'
    key=(--api-key-file "$work/key")
fi

out=${out:-fleet-out/$(date -u +%Y%m%dT%H%M%SZ)}
[[ ! -e $out/plan.jsonl ]] || die "$out holds a fleet's records already: say OUT=DIR"
mkdir -p "$out"
out=$(cd "$out" && pwd)

# What runs on a host: a POSIX shell takes its two lines off stdin and becomes kvload.
# shellcheck disable=SC2016 # expanded there
wrapper='IFS= read -r key; IFS= read -r cleared
if [ -n "$key" ]; then OPENAI_API_KEY=$key; export OPENAI_API_KEY; fi
unset key
[ -n "$cleared" ] || exec "$@"
exec "$@" --isolation /dev/fd/3 3<<END
$cleared
END'
# shellcheck disable=SC2016
asks='date +%s; exec "$@" --version'

export FLEET_ROUND FLEET_COMMAND FLEET_PLAN='' FLEET_CLEARED='' FLEET_KEY_FILE='' FLEET_SHARDS=$count

# together NUMBER...: shard.sh for each of these shards at once; their statuses into `status`.
declare -A status
together() {
    local number code signal at=() to=()
    for number; do
        at+=("$number") to+=("${reaches[number]}")
        status[$number]='?'
    done
    set -m # a group of its own: it can be ended as a whole
    parallel --plain --will-cite --jobs "$#" --link --quote --joblog "$FLEET_ROUND/jobs.tsv" \
        ${limit:+--timeout "$limit"} "$here/shard.sh" '{1}' '{2}' \
        ::: "${at[@]}" ::: "${to[@]}" </dev/null 2>"$FLEET_ROUND/parallel.log" &
    job=$!
    set +m
    wait "$job" || true
    job=''
    while IFS=$'\t' read -r number _ _ _ _ _ code signal _; do
        [[ $number =~ ^[0-9]+$ ]] || continue
        status[${at[number - 1]}]=$((code > 0 || signal == 0 ? code : 128 + signal))
    done <"$FLEET_ROUND/jobs.tsv"
}

# why NUMBER: what became of it, in words.
why() {
    local log=$FLEET_ROUND/shard-$1.log said
    said=$(grep -v '^Warning: Permanently added' "$log" 2>/dev/null | tail -n 1 | tr -d '\000-\037\177' | cut -c1-300) || said=''
    case ${status[$1]} in
    143) echo "was given up${limit:+ after $limit s (LIMIT)}${said:+: $said}" ;;
    255) echo "ssh lost it${said:+: $said}" ;;
    126 | 127) echo "${program[0]} cannot be run there: say KVLOAD=PATH${said:+ ($said)}" ;;
    *) echo "ended with status ${status[$1]}${said:+: $said}" ;;
    esac
}

# All hosts are asked before anything is sent: is there a kvload, is it ours, do the clocks agree?
all=($(seq 0 $((count - 1))))
FLEET_ROUND=$out/hosts
mkdir -p "$FLEET_ROUND"
FLEET_COMMAND=$(python "$here/hosts.py" quote sh -c "$asks" fleet "${program[@]}")
together "${all[@]}"
own=$(kvload --version)
bad=0
for number in "${all[@]}"; do
    name=${names[number]}
    if [[ ${status[$number]} != 0 ]]; then
        say "$name: $(why "$number")"
        bad=1
        continue
    fi
    { read -r clock && read -r version; } <"$FLEET_ROUND/shard-$number.jsonl" || clock=''
    [[ $clock =~ ^[0-9]{1,12}$ ]] || { say "$name: its date +%s tells no time" && bad=1 && continue; }
    before=$(<"$FLEET_ROUND/shard-$number.before")
    after=$(<"$FLEET_ROUND/shard-$number.after")
    if ((clock > after + 2)); then
        say "$name: its clock is $((clock - after)) s ahead of this machine's: the shards could not begin together (NTP)"
        bad=1
    elif ((clock + 2 < before)); then
        say "$name: its clock is $((before - clock)) s behind this machine's: the shards could not begin together (NTP)"
        bad=1
    fi
    if [[ $version != "$own" ]]; then
        say "$name: it has ${version:0:80}, and this machine $own: one version is wanted"
        bad=1
    fi
done
((bad == 0)) || die 'nothing was sent'
say "$count shards: $(IFS=' '; echo "${names[*]}"); $own"

# The plan is made once: the same text for all.
if [[ -n $workload ]]; then
    cat -- "$workload" >"$out/plan.part"
else
    words PLAN "$plan"
    kvplan --scenario "$scenario" --url "${urls[0]#[0-9]=}" "${model[@]}" "${key[@]}" \
        --repeats "$repeats" ${found[@]+"${found[@]}"} >"$out/plan.part"
fi
mv "$out/plan.part" "$out/plan.jsonl"

# cleared FILE FLAGS: isolation, verified, or no measurement.
cleared() {
    words CLEAR "$2"
    kvclear ${found[@]+"${found[@]}"} "${key[@]}" >"$1" || die "kvclear could not verify that the caches are empty: see $1"
}

# order REPEAT: its rounds; the control before the others in odd repeats and after them in even ones.
order() {
    local others=${rounds//[0,]/ }
    if [[ $rounds != *0* ]]; then echo "$others"; elif (($1 % 2)); then echo "0 $others"; else echo "$others 0"; fi
}

experiment=fleet-$(date -u +%Y%m%dT%H%M%SZ)-$RANDOM
urls_given=()
for url in "${urls[@]}"; do urls_given+=(--url "$url"); done
[[ ! -e $work/key ]] || FLEET_KEY_FILE=$work/key
FLEET_PLAN=$out/plan.jsonl
alive=("${all[@]}") lost=0 worst=0
for repeat in $(seq "$repeats"); do
    for number in $(order "$repeat"); do
        FLEET_ROUND=$out/repeat-$repeat/round-$number
        mkdir -p "$FLEET_ROUND"
        FLEET_CLEARED=''
        if ((number == 1)) && [[ -n $clear ]]; then cleared "$out/repeat-$repeat/cleared.jsonl" "$clear"; fi
        if ((number > 1)) && [[ -n $between ]]; then cleared "$FLEET_ROUND/cleared.jsonl" "$between"; fi
        [[ ! -e $out/repeat-$repeat/cleared.jsonl ]] || FLEET_CLEARED=$out/repeat-$repeat/cleared.jsonl
        at=$(($(date +%s) + lead))
        say "repeat $repeat, round $number: ${#alive[@]} shards begin at $(date -u -d "@$at" +%H:%M:%S) UTC"
        FLEET_COMMAND=$(python "$here/hosts.py" quote sh -c "$wrapper" fleet "${program[@]}" -q \
            "${urls_given[@]}" "${model[@]}" ${flags[@]+"${flags[@]}"} --workload - \
            --experiment "$experiment" --salt "$experiment" --repeat "$repeat" --round "$number" \
            --start-at "$at")
        together "${alive[@]}"
        rest=()
        for shard in "${alive[@]}"; do
            if ((${status[$shard]/\?/255} < 2)) &&
                [[ $(tail -n 1 "$FLEET_ROUND/shard-$shard.jsonl") == '{"record":"end"'* ]]; then
                rest+=("$shard")
                ((status[$shard] == 0)) || worst=1
                [[ ! -s $FLEET_ROUND/shard-$shard.log ]] || say "${names[shard]}: $(why "$shard")"
            else
                say "LOST in repeat $repeat, round $number: shard $shard/$count on ${names[shard]}: $(why "$shard")"
                lost=$((lost + 1))
            fi
        done
        alive=(${rest[@]+"${rest[@]}"})
        ((${#alive[@]})) || break 2
    done
done

files=()
for file in "$out"/repeat-*/round-*/shard-*.jsonl; do [[ ! -s $file ]] || files+=("$file"); done
((${#files[@]})) || die "no shard sent anything: see $out"
kvstats "${files[@]}" >"$out/stats.jsonl" || (($? == 1)) || exit 2
kvreport --format text --format md --format html --format json -o "$out" "$out/stats.jsonl" \
    2>"$out/report.log" || { code=$? && cat "$out/report.log" >&2 && ((code == 1)) && worst=1; } || exit 2
cat "$out/report.txt"
say "the report is $out/report.html (and .txt, .md, .json), the records are beside it"
((lost == 0)) || { say "$lost of $count shards were lost; the rest is reported" && worst=1; }
exit "$worst"
