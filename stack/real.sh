#!/usr/bin/env bash
# The whole experiment on real engines, on a machine without a GPU: two vLLM nodes on CPU with a
# tiny model, real KV blocks, a real Mooncake store between them. Absolute times are this machine's;
# what is shown is that hits are hits, cold is cold, and what one is worth here.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    exec python stack/nodes.py run --segment 1024 -- "$0" "$@"
fi

out=${1:-real-out}
mkdir -p "$out"
rm -f "$out"/*.jsonl "$out"/report.*

shape=(--scenario long_context_high_reuse --requests "${REQUESTS:-24}" --contexts 8
    --context-tokens 2700 --output-tokens 16 --sentinels 8 --pause 1 --model "$KV_MODEL")
clear_all=(kvclear --vllm "$KV_NODE_A" --vllm "$KV_NODE_B" --mooncake "$KV_MOONCAKE"
    --model "$KV_MODEL")

set -x
"${clear_all[@]}" >"$out/cleared-1.jsonl"
kvload --url "$KV_NODE_A" "${shape[@]}" --name "one node" --isolation "$out/cleared-1.jsonl" \
    --metrics-url store="$KV_MOONCAKE" |
    tee "$out/local.jsonl" | kvstats >"$out/local.stats.jsonl"

"${clear_all[@]}" >"$out/cleared-2.jsonl"
kvload --url "$KV_NODE_A" "${shape[@]}" --name "one node, through the store" --tier store \
    --isolation "$out/cleared-2.jsonl" --metrics-url store="$KV_MOONCAKE" |
    tee "$out/store.jsonl" | kvstats >"$out/store.stats.jsonl"

"${clear_all[@]}" >"$out/cleared-3.jsonl"
kvload --url 1="$KV_NODE_A" --url 2="$KV_NODE_B" "${shape[@]}" --name "two nodes" \
    --isolation "$out/cleared-3.jsonl" --metrics-url store="$KV_MOONCAKE" |
    tee "$out/cross.jsonl" | kvstats >"$out/cross.stats.jsonl"

kvreport --format md --format json -o "$out" "$out"/*.stats.jsonl
{ set +x; } 2>/dev/null
kvreport "$out"/*.stats.jsonl
echo "real: the report is $out/report.md, the records are beside it" >&2
