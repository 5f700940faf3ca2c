#!/usr/bin/env bash
# A piece of a public trace on real vLLM and Mooncake, on CPU: what was predicted before anything was
# sent, beside what the engines report. First with room for everything, where each request's count
# must be the ideal; then with stores of 64 to 512 MiB a node, where the LRU curve, the store's
# watermark and its leases each explain a part of what is missed. Serial, so counts are exact.
#
#     stack/replay.sh [OUT]      (SEGMENTS, BLOCKS and TRACE in the environment say otherwise)
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-replay-out}
trace=${TRACE:-tests/data/traces/conversation_trace.jsonl.gz}
own_blocks=140 # of an engine's own cache, beside a limited store: the longest prompt takes 100
kv=4096        # bytes of KV a token, of the stack's model

if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    mkdir -p "$out"
    rm -f "$out"/*.json "$out"/*.jsonl
    python stack/sample.py "$trace" --blocks "${BLOCKS:-1000}" >"$out/piece.jsonl"
    plan=(kvplan --trace "$out/piece.jsonl" --scale 1/4 --block-tokens 128)
    "${plan[@]}" --api completions --token-ids 300-4000 --output-tokens 2 --sentinels 0 \
        >"$out/plan.jsonl"
    rooms=$(for segment in ${SEGMENTS:-64 128 256 512}; do echo -n "$((2 * segment))MiB,"; done)
    "${plan[@]}" --analyze --kv-bytes-per-token "$kv" --capacity "${rooms%,}" --block-sizes 128 \
        --chart "$out/curve.png" >"$out/analysis.json"
    python stack/nodes.py run --segment 1024 -- "$0" "$out"
    for segment in ${SEGMENTS:-64 128 256 512}; do
        SEGMENT=$segment python stack/nodes.py run --segment "$segment" --kv-blocks "$own_blocks" \
            -- "$0" "$out"
    done
    kvreport --format text --format md -o "$out" "$out"/stats-*.jsonl "$out/analysis.json" || true
    echo "replay: the comparison is $out/compared.jsonl, the report $out/report.txt" >&2
    exec cat "$out/compared.jsonl"
fi

name=${SEGMENT:-unlimited}
room=${SEGMENT:+store of $((2 * SEGMENT))MiB} # as the analysis calls it, so that kvreport knows
room=${room:-no limit}
kvload --url "$KV_NODE_A" --model "$KV_MODEL" --api completions --workload "$out/plan.jsonl" \
    --concurrency 1 --round 1 --salt none --warmup 0 --name "trace, $room" \
    --metrics-url store="$KV_MOONCAKE" |
    tee "$out/run-$name.jsonl" | kvstats >"$out/stats-$name.jsonl"
limit=(${SEGMENT:+--segment "$SEGMENT" --kv-blocks "$own_blocks"})
python stack/compared.py "$out/plan.jsonl" "$out/run-$name.jsonl" "${limit[@]}" >>"$out/compared.jsonl"
