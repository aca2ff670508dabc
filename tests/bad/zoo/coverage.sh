#!/bin/sh
# Every check of the kit must be broken by a plugin of the zoo.
#   usage: coverage.sh LMOE FOLDER...      folders with sources whose comments say `breaks: GROUP/NAME`
set -eu
lmoe=$1
shift
missing=0
for check in $("$lmoe" plugin check --list | sed -n 's/^\([a-z][^ ]*\) .*/\1/p'); do
    for folder in "$@"; do
        ! grep -qrx " \* breaks: $check" "$folder" || continue 2
    done
    echo "no plugin breaks $check"
    missing=$((missing + 1))
done
echo "$(cat "$@"/*.c | grep -c '^ \* breaks: [a-z]*/') plugins, $missing checks without one"
[ "$missing" -eq 0 ]
