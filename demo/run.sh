#!/usr/bin/env bash
# The whole experiment on simulated engines: one node, one node through the store, two nodes.
# Every step is a pipeline that could be typed; everything it measures is SIMULATED and says so.
set -euo pipefail

out=${1:-demo-out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/*.jsonl "$out"/report.* "$out"/*.url

. "$(dirname "${BASH_SOURCE[0]}")/engines.sh"

echo "demo: starting a simulated Mooncake store and two simulated vLLM nodes" >&2
start store --role store
store=$(url store)
pace=(--prefill-tps 12000 --step-ms 5)  # a miss of 2,700 tokens takes a quarter of a second
start a --store "$store" "${pace[@]}"
start b --store "$store" "${pace[@]}"
a=$(url a)
b=$(url b)

shape=(--scenario long_context_high_reuse --requests 18 --contexts 8 --context-tokens 2500-3000
    --output-tokens 8 --sentinels 6 --pause 0)

set -x
kvload --url "$a" "${shape[@]}" --name "one node" |
    tee "$out/local.jsonl" | kvstats >"$out/local.stats.jsonl"

kvload --url "$a" "${shape[@]}" --name "one node, through the store" --tier store \
    --engine mooncake="$store" |
    tee "$out/store.jsonl" | kvstats >"$out/store.stats.jsonl"

kvclear --vllm "$a" --vllm "$b" --mooncake "$store" >"$out/cleared.jsonl"

kvload --url 1="$a" --url 2="$b" "${shape[@]}" --name "two nodes" \
    --engine mooncake="$store" --isolation "$out/cleared.jsonl" |
    tee "$out/cross.jsonl" | kvstats >"$out/cross.stats.jsonl"

kvreport --format md --format html --format json -o "$out" "$out"/*.stats.jsonl
{ set +x; } 2>/dev/null
kvreport "$out"/*.stats.jsonl
echo "demo: the report is $out/report.html (and .md, .json), the records are beside it" >&2
