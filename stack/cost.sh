#!/usr/bin/env bash
# What does the store cost whoever it does not help? Prompts that nobody asked before, on a real
# node without a connector and on one with it, in turn, so that a machine that grows slower does so
# for both. The report's chapter "What the cache costs" has the difference and its interval.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two stacks, one inside the other: first the node without a connector, then the one with it.
if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    exec python stack/nodes.py run --nodes 1 --connector none -- "$0" "$@"
elif [[ -z ${KV_OTHER:-} ]]; then
    export KV_OTHER=$KV_NODE_A
    exec python stack/nodes.py run --nodes 1 --segment 1024 -- "$0" "$@"
fi

out=${1:-real-out/cost}
mkdir -p "$out"
rm -rf "$out"/*.jsonl "$out"/report.* "$out"/charts

shape=(--scenario long_context_high_reuse --requests "${REQUESTS:-16}" --contexts 8
    --context-tokens "${CONTEXT_TOKENS:-1500}" --output-tokens "${OUTPUT_TOKENS:-16}" --sentinels 3
    --pause 1 --model "$KV_MODEL" --arm no_reuse)

# round SIDE URL REPEAT: the same prompts for both sides, a namespace of its own for each request.
round() {
    kvload --url "$2" "${shape[@]}" --experiment "$1" --name "$1" --repeat "$3" \
        >>"$out/$1.jsonl"
}

for repeat in $(seq "${REPEATS:-4}"); do
    # In turn first, so that neither side always follows the other.
    if ((repeat % 2)); then
        round bare "$KV_OTHER" "$repeat"
        round store "$KV_NODE_A" "$repeat"
    else
        round store "$KV_NODE_A" "$repeat"
        round bare "$KV_OTHER" "$repeat"
    fi
done
for side in bare store; do
    kvstats "$out/$side.jsonl" >"$out/$side.stats.jsonl"
done
sides=(bare="$out/bare.stats.jsonl" store="$out/store.stats.jsonl")
kvreport "${sides[@]}" --baseline bare --format all -o "$out" || (($? == 1))
sed -n '/^What the cache costs/,/^Details/p' "$out/report.txt" | sed '$d'
echo "cost: the report is $out/report.txt, the records are beside it" >&2
