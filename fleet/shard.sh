#!/usr/bin/env bash
# One shard, for fleet/run.sh, by way of parallel: what is to run on one host, and its words here.
#   shard.sh NUMBER REACH
# REACH is fleet/hosts.py's and quoted by it; the rest is in the environment, so that no key and no
# plan is ever an argument. Exit status: that of what ran there; 255 where ssh lost it.
set -euo pipefail

number=$1
eval "reach=($2)"
here=$FLEET_ROUND/shard-$number

# The first two lines of stdin are the wrapper's, see run.sh; the rest is kvload's.
given() {
    local key='' cleared=''
    [[ -z $FLEET_KEY_FILE ]] || key=$(<"$FLEET_KEY_FILE")
    [[ -z $FLEET_CLEARED ]] || cleared=$(<"$FLEET_CLEARED")
    printf '%s\n%s\n' "$key" "$cleared"
    [[ -z $FLEET_PLAN ]] || cat "$FLEET_PLAN"
}

command=$FLEET_COMMAND
[[ -z $FLEET_PLAN ]] || command+=" --shard $number/$FLEET_SHARDS"
date +%s >"$here.before"
set +e
given 2>"$here.given" | "${reach[@]}" "$command" >"$here.jsonl" 2>"$here.log"
status=${PIPESTATUS[1]}
date +%s >"$here.after"
exit "$status"
