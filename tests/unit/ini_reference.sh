#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/unit/ini_reference.sh: writes the option tables into docs/ini.md, behind its own words.
# Usage: ini_reference.sh PROGRAM FILE
set -eu
new=$(mktemp)
trap 'rm -f "$new"' EXIT
sed '/^<!-- From here on generated/q' "$2" >"$new"
"$1" >>"$new"
cat "$new" >"$2"
