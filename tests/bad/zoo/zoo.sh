#!/bin/sh
# Runs the conformance kit on a plugin that breaks one check: that one must fail, no other may.
#   usage: zoo.sh LMOE SOURCE PLUGIN      the source's comment says `breaks: GROUP/NAME` and `also: ...`
set -eu
lmoe=$1
source=$2
plugin=$3
out=$(mktemp)
trap 'rm -f "$out"' EXIT

breaks=$(sed -n 's/^ \* breaks: *//p' "$source")
also=$(sed -n 's/^ \* also: *\([^ ]*\).*/\1/p' "$source")
[ -n "$breaks" ] || { echo "$source: its comment does not say what it breaks" && exit 1; }

status=0
"$lmoe" plugin check "$plugin" --level quick >"$out" 2>&1 || status=$?
[ "$status" -le 1 ] || { cat "$out" && exit 1; }
if [ "$breaks" = nothing ]; then
    cat "$out"
    [ "$status" -eq 0 ] || exit 1
    ! grep '^warn' "$out" || exit 1
    exit 0
fi
if ! grep -q "^[A-Za-z]* *$breaks " "$out"; then
    "$lmoe" plugin check "$plugin" --level full --bench --only "$breaks" >>"$out" 2>&1 || status=$?
    [ "$status" -le 1 ] || { cat "$out" && exit 1; }
fi

cat "$out"
failed=$(sed -n 's/^\(FAIL\|CRASH\|TIMEOUT\) *\([^ ]*\).*/\2/p' "$out" | sort -u)
found=no
for check in $failed; do
    if [ "$check" = "$breaks" ]; then
        found=yes
        continue
    fi
    for a in $also; do
        [ "$check" != "$a" ] || continue 2
    done
    echo "$source breaks $breaks, but $check fails too"
    exit 1
done
[ "$found" = yes ] || { echo "$source: $breaks does not fail" && exit 1; }
