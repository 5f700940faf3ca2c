#!/usr/bin/env bash
# A matrix on real engines, on a machine without a GPU: local, store and A to B, three repeats each,
# isolated; then the same one without isolation, which has to be reported as contaminated.
# Exit status: 0 both came out as they must, 1 one did not, 2 it could not run.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${KV_NODE_A:-} ]]; then
    stack/install.sh
    exec python stack/nodes.py run --segment 1024 -- "$0" "$@"
fi

out=${1:-real-out/matrix}
rm -rf "$out/configs" "$out/isolated" "$out/not_isolated"
mkdir -p "$out/configs"

# The templates with this stack's addresses and the sizes that were asked for.
for template in stack/matrix/*.yaml; do
    sed -e "s|http://NODE_A|$KV_NODE_A|; s|http://NODE_B|$KV_NODE_B|" \
        -e "s|http://YOUR_STORE|$KV_MOONCAKE|; s|YOUR_MODEL|$KV_MODEL|; s|OUT/|$out/|" \
        -e "s|requests: 16|requests: ${REQUESTS:-16}|; s|contexts: 8|contexts: ${CONTEXTS:-8}|" \
        -e "s|context_tokens: 1500|context_tokens: ${CONTEXT_TOKENS:-1500}|" \
        -e "s|sentinels: 8|sentinels: ${SENTINELS:-8}|" \
        "$template" >"$out/configs/${template##*/}"
done

for name in isolated not_isolated; do
    kvmatrix "$out/configs/$name.yaml" --check || exit 2
done

# matrix NAME: its exit status. What is installed is taken as it is.
matrix() {
    make --no-print-directory -o .venv/installed.stamp matrix CONFIG="$out/configs/$1.yaml"
}

as_expected=0
matrix isolated || {
    echo "real-matrix: the isolated matrix did not succeed untainted: see $out/isolated/summary.txt" >&2
    as_expected=1
}
if matrix not_isolated; then
    echo "real-matrix: without isolation the matrix was taken for sound" >&2
    as_expected=1
elif ! grep -q 'Matrix: 3 scenarios in all, 3 succeeded, 0 failed, 3 tainted' \
    "$out/not_isolated/summary.txt"; then
    echo "real-matrix: without isolation every scenario should have run, and been reported tainted:" \
        "see $out/not_isolated/summary.txt" >&2
    as_expected=1
fi
cat "$out/isolated/report.txt"
echo
echo "real-matrix: without isolation:"
cat "$out/not_isolated/summary.txt"
exit "$as_expected"
