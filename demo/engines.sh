# Simulated engines for a script that sources this: `start NAME FLAGS...` and `url NAME`. The script
# names its folder in $out; whatever was started is gone when the script ends, however it does.
# shellcheck shell=bash disable=SC2154

pids=()
stop() {
    trap - EXIT
    ((${#pids[@]})) || return 0
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME FLAGS...: one kvsim process; it prints its URL when it is ready.
start() {
    local name=$1
    shift
    kvsim --port 0 "$@" >"$out/$name.url" &
    pids+=($!)
    for _ in $(seq 300); do
        [[ -s $out/$name.url ]] && return
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "${0##*/}: kvsim ($name) did not start" >&2
    exit 2
}

url() { python -c 'import json, sys; print(json.load(sys.stdin)["url"])' <"$out/$1.url"; }
