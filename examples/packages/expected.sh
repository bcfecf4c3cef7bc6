#!/usr/bin/env bash
# Makes with jq what the pipeline makes of the same input: data/expected-all.ndjson and data/expected-large.csv.
set -euo pipefail
cd "$(dirname "$0")"

jq -c 'select(has("size") and .size > 100000)
  | {name: .package, version, section, kib: (.size / 1024 | floor), dependencies: (.depends | length), summary: .description}' \
  data/packages.ndjson >data/expected-all.ndjson

# A CSV value is quoted only where it must be.
jq -r '
  def cell: tostring | if test("[\",\r\n]") or test("^\\s") then "\"" + gsub("\""; "\"\"") + "\"" else . end;
  def line: map(cell) | join(",");
  [.name, .version, .section, .kib, .dependencies, .summary] | line' \
  <(jq -c 'select(.kib >= 10240)' data/expected-all.ndjson) |
  cat <(echo name,version,section,kib,dependencies,summary) - >data/expected-large.csv
