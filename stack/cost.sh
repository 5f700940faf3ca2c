#!/usr/bin/env bash
# What does the store cost whoever it does not help? Prompts that nobody asked before, on one real
# node without a connector and on one with it, in turn, so that a machine that grows slower does so
# for both. The report's chapter "What the cache costs" has the difference and its interval.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-real-out/cost}
repeats=${REPEATS:-3}

if [[ -n ${KV_NODE_A:-} ]]; then # inside: one repeat on the node that was started
    kvload --url "$KV_NODE_A" --scenario long_context_high_reuse --arm no_reuse \
        --requests "${REQUESTS:-16}" --contexts 8 --context-tokens "${CONTEXT_TOKENS:-1500}" \
        --output-tokens "${OUTPUT_TOKENS:-32}" --sentinels 3 --pause 1 --model "$KV_MODEL" \
        --experiment "$KV_SIDE" --name "$KV_SIDE" --repeat "$KV_REPEAT" --salt "cost-$KV_REPEAT" \
        >>"$out/$KV_SIDE.jsonl"
    exit
fi

stack/install.sh
mkdir -p "$out"
rm -rf "$out"/*.jsonl "$out"/report.* "$out"/charts
for repeat in $(seq "$repeats"); do
    sides=(none mooncake)
    ((repeat % 2)) || sides=(mooncake none)
    for side in "${sides[@]}"; do
        KV_SIDE=$side KV_REPEAT=$repeat python stack/nodes.py run --nodes 1 --connector "$side" \
            --segment 1024 -- "$0" "$out"
    done
done
for side in none mooncake; do
    kvstats "$out/$side.jsonl" >"$out/$side.stats.jsonl"
done
sides=(none="$out/none.stats.jsonl" mooncake="$out/mooncake.stats.jsonl")
kvreport "${sides[@]}" --baseline none --format all -o "$out" || (($? == 1))
sed -n '/^What the cache costs/,/^Details/p' "$out/report.txt" | sed '$d'
echo "cost: the report is $out/report.txt, the records are beside it" >&2
