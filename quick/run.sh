#!/usr/bin/env bash
# What is a hit worth here, in a minute: the tools, one after the other, suited to the endpoint.
# Needs no config, no privileges, no /metrics. The answer is on stdout, the way there on stderr.
#   quick/run.sh --url URL [--model M] [--api-key-file F] [--header K:V] [--seconds 75] [-o DIR]
# Exit status: 0 there is an answer, 1 there is none or requests failed, 2 it could not run.
set -euo pipefail
trap 'exit 130' INT

usage() {
    echo 'quick: which endpoint? say make quick URL=http://HOST:8000 [MODEL=M] [KEY_FILE=F] [BUDGET=75]' >&2
    exit 2
}

begun=$(date +%s)
here=$(cd "$(dirname "$0")" && pwd)
endpoint=() url='' seconds=75 out=''
while (($#)); do
    [[ -n ${2-} ]] || usage
    case $1 in
    --url) url=$2 endpoint+=("$1" "$2") ;;
    --model | --api-key-file | --header) endpoint+=("$1" "$2") ;;
    --seconds) seconds=$2 ;;
    -o) out=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[[ -n $url && $seconds =~ ^[0-9]+$ ]] || usage

lengths=$(python "$here/shape.py" length "${endpoint[@]}")

out=${out:-$(mktemp -d "${TMPDIR:-/tmp}/kvworth-quick.XXXXXX")}
mkdir -p "$out"

# Status 1 of kvload and kvstats: requests failed, or it was cut short. The records say so. What
# hangs is ended by a guard (its own status is 124), and what was measured until then is kept.
load() {
    local limit=$1
    shift
    timeout --foreground -s INT "$limit" kvload "${endpoint[@]}" --scenario cold_start --name quick \
        --pause 0 "$@" || (($? == 1 || $? == 124))
}
stats() { kvstats "$@" || (($? == 1)); }

# One short round tells how fast it is here; if it is not answered, one with a short prompt does.
words=''
for length in $lengths; do
    began=$(date +%s)
    load 30 -q --rounds 1 --warmup 0 --requests 2 --sentinels 0 --output-tokens 4 \
        --context-tokens "$length" --seed "$RANDOM" >"$out/probe.jsonl" 2>"$out/probe.log" &&
        stats "$out/probe.jsonl" >"$out/probe.stats.jsonl" 2>>"$out/probe.log" ||
        { cat "$out/probe.log" >&2 && exit 2; }
    words=$(python "$here/shape.py" fit "$out/probe.stats.jsonl" --begun "$begun" --began "$began" \
        --seconds "$seconds" --longest "${lengths% *}" --probed "$length") && break
    (($? == 1)) || exit 2
done
[[ -n $words ]] || exit 2

# shellcheck disable=SC2086 # several words are meant
load 240 $words >"$out/run.jsonl"
stats "$out/run.jsonl" >"$out/stats.jsonl"

status=0
kvreport --format brief --format text --format md --format json -o "$out" "$out/stats.jsonl" \
    2>"$out/report.log" || { status=$? && grep '^kvreport:' "$out/report.log" >&2 || true; }
((status < 2)) || exit 2
cat "$out/brief.txt"
echo
echo "The whole report: $out/report.txt (.md, .json); the records: $out/run.jsonl"
exit "$status"
