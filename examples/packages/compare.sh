#!/usr/bin/env bash
# Compares what the pipeline wrote with what jq makes of the same input, record by record and in any order.
# Prints how many records there were and what differs; fails when anything does.
set -euo pipefail
cd "$(dirname "$0")"

./expected.sh
bad=0
compare() { # name, wanted, got: commands that print one record on each line
  local name=$1
  if diff <(eval "$2" | LC_ALL=C sort) <(eval "$3" | LC_ALL=C sort); then
    printf '%s: %d records, as expected\n' "$name" "$(eval "$3" | wc -l)"
  else
    printf '%s: differs\n' "$name"
    bad=1
  fi
}
# jq -S gives each object one spelling: member order and escapes may differ, the values may not.
compare all.ndjson 'jq -cS . data/expected-all.ndjson' 'jq -cS . data/all.ndjson'
compare large.csv 'cat data/expected-large.csv' 'cat data/large.csv'
exit $bad
