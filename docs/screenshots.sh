#!/usr/bin/env bash
# Pictures of a report as readers see it: both languages, phone and desk, light and dark.
#
#   docs/screenshots.sh                    of the demo, which is run for it (about a minute)
#   docs/screenshots.sh STATS.jsonl ...    of a report on these round stats
#
# Writes the report and its pictures into screenshots/, and their paths to stdout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=screenshots

if [[ $# -eq 0 ]]; then
  demo/run.sh "$out/demo" >/dev/null
  set -- "$out"/demo/*.stats.jsonl
fi
for language in en zh; do
  # 1 says that something could not be compared: the report of that is worth a picture too.
  kvreport --lang "$language" -o "$out/$language" "$@" || [[ $? -eq 1 ]]
done
python docs/screenshots.py "$out/en/report.html" "$out/zh/report.html"
