#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/readme.sh: the commands of the README's section "Write your own layer", as they are
# written, in a copy of the tree in which nothing was built, within five minutes; the layer's losses
# on four ranks are those on one. As on a bare system, there is no nvcc and no Check: kernels of CUDA
# alone take minutes. Usage: readme.sh SOURCE_ROOT
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail()
{
    echo "FAILED: $*"
    exit 1
}

mkdir "$work/tree" "$work/home"
(cd "$source" && git ls-files -z | tar --null -T - -c) | tar -x -C "$work/tree"
awk '/^## /{ here = $0 == "## Write your own layer" } here && /^```$/ { code = 0 }
     here && code { print } here && /^```sh$/ { code = 1 }' "$source/README.md" >"$work/commands"
grep -q 'lmoe plugin new' "$work/commands" || fail "the README has no such commands"

start=$(date +%s)
cd "$work/tree"
bare()
{
    env -i HOME="$work/home" PATH=/usr/local/bin:/usr/bin:/bin LANG="${LANG-C}" "$@" >>"$work/log" 2>&1
}
bare meson setup build --buildtype=release -Dcuda=disabled -Dtests=disabled &&
    bare sh -eux "$work/commands" || { tail -n 60 "$work/log"; fail "they do not run"; }
seconds=$(($(date +%s) - start))
echo "$seconds s"
busy=$(awk -v cores="$(nproc)" '{ print $2 > 3 * cores }' /proc/loadavg)
[ $seconds -le 300 ] || [ "$busy" = 1 ] || fail "they take $seconds s" # on a busy machine time says nothing

# The first losses of both layouts are equal but for rounding, before choices of experts that were nearly
# even fall otherwise; the last is far below the first.
cd "$work/tree/decay/runs"
for run in decay four; do
    sed -n 's/.*"step": *\([0-9]*\).*"train_loss": *\([0-9.]*\).*/\1 \2/p' $run/metrics.jsonl >"$work/$run"
done
paste "$work/decay" "$work/four" | awk '
    $1 != $3 { print "other steps: " $0; exit 1 }
    NR == 1 { first = $2 }
    NR <= 8 && ($2 - $4 > 1e-3 || $4 - $2 > 1e-3) { print "step " $1 ": " $2 ", " $4; exit 1 }
    { last = $2 }
    END { if (!(NR == 500 && last < 0.6 * first)) { print NR " steps, loss " first " to " last; exit 1 } }' ||
    fail "the layouts disagree, or nothing is learned"
