#!/usr/bin/env bash
# What is left of a real store's worth once it is full, evicting, and written while it is read? The
# same prompts with a store that has no room for them, and with one that has.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two stacks, one inside the other: first the roomy store, then the one that is too small. Twelve
# prompts of 1,500 tokens are 72 MiB at 4,096 bytes a token.
if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    exec python stack/nodes.py run --nodes 1 --segment 1024 -- "$0" "$@"
elif [[ -z ${KV_OTHER:-} ]]; then
    export KV_OTHER=$KV_NODE_A KV_OTHER_STORE=$KV_MOONCAKE
    exec python stack/nodes.py run --nodes 1 --segment "${SEGMENT:-48}" -- "$0" "$@"
fi

out=${1:-real-out/churn}
mkdir -p "$out"
rm -rf "$out"/*.jsonl "$out"/report.* "$out"/charts

# measure SIDE NODE STORE: two requests at once, so that one's blocks are written while another's
# are read.
measure() {
    kvload --url "$2" --metrics-url store="$3" --name "$1" --model "$KV_MODEL" \
        --scenario long_context_high_reuse --tier store --requests "${REQUESTS:-14}" \
        --contexts "${CONTEXTS:-12}" --context-tokens "${CONTEXT_TOKENS:-1500}" --output-tokens 4 \
        --sentinels 2 --pause 1 --repeats "${REPEATS:-3}" --concurrency "${CONCURRENCY:-2}" |
        tee "$out/$1.jsonl" | kvstats >"$out/$1.stats.jsonl"
}

measure roomy "$KV_OTHER" "$KV_OTHER_STORE"
measure full "$KV_NODE_A" "$KV_MOONCAKE"
sides=(full="$out/full.stats.jsonl" roomy="$out/roomy.stats.jsonl")
kvreport "${sides[@]}" --baseline roomy --format all -o "$out" || (($? == 1))
sed -n '/^What the cache costs/,/^Compared with/p' "$out/report.txt" | sed '$d'
echo "churn: the report is $out/report.txt, the records are beside it" >&2
