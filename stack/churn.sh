#!/usr/bin/env bash
# What is left of a real store's worth once it is full, evicting, and written while it is read? The
# same prompts with a store that has no room for them, and with one that has.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-real-out/churn}

if [[ -n ${KV_NODE_A:-} ]]; then # inside: one store
    kvload --url "$KV_NODE_A" --scenario long_context_high_reuse --tier store \
        --requests "${REQUESTS:-20}" --contexts "${CONTEXTS:-16}" \
        --context-tokens "${CONTEXT_TOKENS:-1500}" --output-tokens 4 --sentinels 3 --pause 1 \
        --repeats "${REPEATS:-3}" --concurrency "${CONCURRENCY:-2}" --model "$KV_MODEL" \
        --metrics-url store="$KV_MOONCAKE" --name "$KV_SIDE" |
        tee "$out/$KV_SIDE.jsonl" | kvstats >"$out/$KV_SIDE.stats.jsonl"
    exit
fi

stack/install.sh
mkdir -p "$out"
rm -rf "$out"/*.jsonl "$out"/report.* "$out"/charts
# 16 prompts of 1,500 tokens are 96 MiB at 4,096 bytes a token.
for side in full=64 roomy=1024; do
    KV_SIDE=${side%=*} python stack/nodes.py run --nodes 1 --segment "${side#*=}" -- "$0" "$out"
done
sides=(full="$out/full.stats.jsonl" roomy="$out/roomy.stats.jsonl")
kvreport "${sides[@]}" --baseline roomy --format all -o "$out" || (($? == 1))
sed -n '/^What the cache costs/,/^Compared with/p' "$out/report.txt" | sed '$d'
echo "churn: the report is $out/report.txt, the records are beside it" >&2
