#!/usr/bin/env bash
# PD against non-PD, the documents' three columns: non-PD, PD cold, PD hit.
#
#   demo/pd.sh [OUT]                    on simulated engines; all of it is SIMULATED and says so
#   NON_PD=URL PROXY=URL PREFILL=URL DECODE=URL MODEL=NAME demo/pd.sh [OUT]      on real ones
#
# FLOW=lmcache: a proxy that sends the prefiller's token before the KV transfer (docs/pd.md).
# The addresses go into the shipped configs, and `make matrix` runs those: three repeats, isolated,
# in an order that changes. The report is in OUT/results, and its chapter on PD is shown at the end.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-pd-out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
flow=${FLOW:-vllm}
shape=() # the configs' own on real engines
die() {
    echo "pd: $*" >&2
    exit 2
}
[[ $flow = vllm || $flow = lmcache ]] || die "FLOW=$flow: vllm or lmcache"

. "$root/demo/engines.sh"

simulate() {
    echo "pd: starting one simulated server, and a simulated prefiller, decoder and proxy" >&2
    local pace=(--prefill-tps 12000 --step-ms 5 --overhead-ms 5)
    local link=(--load-latency-ms 20) # and 7 microseconds a token
    start non_pd "${pace[@]}"
    start prefill --role prefill --flow "$flow" "${pace[@]}" "${link[@]}"
    start decode --role decode --flow "$flow" "${pace[@]}" "${link[@]}"
    PREFILL=$(url prefill) DECODE=$(url decode) NON_PD=$(url non_pd) MODEL=sim
    start proxy --role proxy --flow "$flow" --prefiller "$PREFILL" --decoder "$DECODE"
    PROXY=$(url proxy)
    shape=(requests=12 context_tokens=1400-1800 contexts=4 output_tokens=8)
}

rm -rf "$out/results"
rm -f "$out"/*.url
named=${NON_PD:+1}${PROXY:+1}${PREFILL:+1}${DECODE:+1}
case $named in
    "") simulate ;;
    1111) [[ -n ${MODEL:-} ]] || die "MODEL=NAME: which model do they serve?" ;;
    *) die "name all four: NON_PD=URL PROXY=URL PREFILL=URL DECODE=URL, or none" ;;
esac

export NON_PD PROXY PREFILL DECODE MODEL FLOW=$flow
python "$root/demo/pd_configs.py" "$root/configs" "$out" "${shape[@]}"
make --no-print-directory -C "$root" matrix CONFIG="$out/matrix_pd_against_non_pd.yaml"
target=(--target pd_ttft_ratio=1.25)
[[ $flow = vllm ]] || target=() # a TTFT without the transfer has nothing to be held against
kvreport --baseline non-PD "${target[@]}" "$out"/results/*/stats.json || status=$?
echo "pd: the report is $out/results/report.html (and .md, .json), the records are beside it" >&2
exit "${status:-0}"
