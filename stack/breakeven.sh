#!/usr/bin/env bash
# From which prompt length does loading KV blocks beat computing them, on real engines on a machine
# without a GPU? Prompts of many lengths: computed, from the node's own cache, from the store, from
# the other node. The report's chapter "Efficiency and break-even" has the length and its interval.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    exec python stack/nodes.py run --segment 1024 -- "$0" "$@"
fi

out=${1:-real-out/breakeven}
mkdir -p "$out"
rm -rf "$out"/*.jsonl "$out"/report.* "$out"/charts

shape=(--scenario long_context_high_reuse --requests "${REQUESTS:-12}" --contexts "${CONTEXTS:-7}"
    --context-tokens "${CONTEXT_TOKENS:-300-3500}" --output-tokens 2 --sentinels 2 --pause 1
    --repeats "${REPEATS:-3}" --model "$KV_MODEL" --metrics-url store="$KV_MOONCAKE")
clear_all=(kvclear --vllm "$KV_NODE_A" --vllm "$KV_NODE_B" --mooncake "$KV_MOONCAKE"
    --model "$KV_MODEL")

# measure NAME KVLOAD-FLAGS...: nothing of an earlier run is left to be found, or to evict.
measure() {
    local name=$1
    shift
    "${clear_all[@]}" >"$out/$name.cleared.jsonl"
    kvload "$@" "${shape[@]}" --name "$name" --isolation "$out/$name.cleared.jsonl" |
        tee "$out/$name.jsonl" | kvstats >"$out/$name.stats.jsonl"
}

set -x
measure remote --url 1="$KV_NODE_A" --url 2="$KV_NODE_B"
measure store --url "$KV_NODE_A" --tier store
measure local --url "$KV_NODE_A"

# Whether the report's targets are met is not asked here: 1 is an answer too.
kvreport --format all -o "$out" "$out"/{local,store,remote}.stats.jsonl || (($? == 1))
{ set +x; } 2>/dev/null
sed -n '/^Efficiency and break-even/,/^Details/p' "$out/report.txt" | sed '$d'
echo "breakeven: the report is $out/report.txt, the records are beside it" >&2
