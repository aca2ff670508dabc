#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# docs/generate/clean.sh: manual pages are formatted without a warning. Usage: clean.sh PAGE ...
set -eu
command -v groff >/dev/null || { echo "skipped: there is no groff"; exit 77; }
said=$(groff -man -Tutf8 -ww -z "$@" 2>&1)
[ -z "$said" ] || { echo "$said"; exit 1; }
for page in "$@"; do
    groff -man -Tutf8 "$page" | grep -q "^ *lmoe[a-z.-]* - " || { echo "$page: has no name"; exit 1; }
done
