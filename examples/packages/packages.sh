#!/usr/bin/env bash
# Prints the packages that this Debian machine can install, one JSON object on each line.
# Needs apt-cache and awk. Run `apt-get update` first if it prints nothing.
set -euo pipefail

apt-cache dumpavail | LC_ALL=C awk '
  BEGIN {
    # The members of the object: the name in the index, the name in JSON, and what the value is.
    n = split("Package package text|Source source text|Version version text|Architecture architecture text|" \
      "Section section text|Priority priority text|Installed-Size installed_size number|Size size number|" \
      "Maintainer maintainer text|Homepage homepage text|Depends depends list|Tag tags list|" \
      "Description description text|Filename filename text|SHA256 sha256 text", line, "|")
    for (i = 1; i <= n; i++) { split(line[i], w, " "); key[i] = w[1]; name[i] = w[2]; kind[i] = w[3] }
    for (i = 1; i < 32; i++) escape[sprintf("%c", i)] = sprintf("\\u%04x", i)
  }

  function quote(s,    i, out) {
    gsub(/\\/, "\\\\", s)
    gsub(/"/, "\\\"", s)
    if (s ~ /[\001-\037]/) {
      out = ""
      for (i = 1; i <= length(s); i++)
        out = out (substr(s, i, 1) in escape ? escape[substr(s, i, 1)] : substr(s, i, 1))
      s = out
    }
    return "\"" s "\""
  }

  function list(s,    i, m, part, out) {
    m = split(s, part, /, */)
    out = ""
    for (i = 1; i <= m; i++) if (part[i] != "") out = out (out == "" ? "" : ",") quote(part[i])
    return "[" out "]"
  }

  function flush_package(    i, out, v) {
    if (!("Package" in value)) return
    out = ""
    for (i = 1; i <= n; i++) {
      if (kind[i] == "list") v = list(value[key[i]])       # an empty list when there is none
      else if (!(key[i] in value)) continue                # a member that is missing stays missing
      else if (kind[i] == "number") v = value[key[i]] ~ /^(0|[1-9][0-9]*)$/ ? value[key[i]] : quote(value[key[i]])
      else v = quote(value[key[i]])
      out = out (out == "" ? "" : ",") "\"" name[i] "\":" v
    }
    print "{" out "}"
    split("", value)
  }

  /^$/ { flush_package(); next }
  /^[ \t]/ { sub(/^[ \t]+/, ""); value[field] = value[field] " " $0; next }  # a value goes on
  {
    colon = index($0, ":")
    field = substr($0, 1, colon - 1)
    rest = substr($0, colon + 1)
    sub(/^[ \t]+/, "", rest)
    value[field] = rest
  }
  END { flush_package() }
'
