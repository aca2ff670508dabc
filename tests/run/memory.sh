#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/memory.sh: what a plan says that a run needs is what it takes, within 5 %. Runs of more than
# 1 GB that consist mainly of weights and their like, of a large vocabulary, of activations.
unset MALLOC_PERTURB_     # which touches memory that nobody uses
TMPDIR=${TMPDIR:-/tmp} # a file in memory is memory, too
. "$2/tests/run/lib.sh"

available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
if [ "${available:-0}" -lt 2500000 ]; then
    echo "less than 2.5 GB of memory is free"
    exit 77
fi
documents 1000 >tales
cat >run.ini <<EOF
[run]
dir          = run
[model]
layers       = 3
pattern      = LLN
[layer L]
class        = lsm/gla
heads        = 4
[layer N]
class        = lsm/attention
heads        = 4
[data]
train        = tales
[train]
steps        = 2
EOF
# figure NAME: of run.json
figure()
{
    sed -n "s/^ *\"$1\": \([0-9]*\),\$/\1/p" run/run.json
}
# within WHAT OPTION...
within()
{
    what=$1
    shift
    for option in "$@"; do
        set -- "$@" --set "$option"
        shift
    done
    expect 0 "$lmoe" plan run.ini "$@"
    said=$(sed -n 's/^ *in all *//p' out)
    expect 0 "$lmoe" train run.ini "$@"
    grep -q "^memory: $said planned, the process grew by " out ||
        fail "$what: lmoe plan says $said, the run something else"
    planned=$(figure planned_bytes)
    grown=$(figure grown_bytes)
    echo "$what: planned $planned bytes, grown by $grown"
    [ "$planned" -gt 1000000000 ] || fail "$what: less than 1 GB"
    difference=$((grown > planned ? grown - planned : planned - grown))
    [ $((difference * 20)) -le "$planned" ] || fail "$what: more than 5 % apart"
    rm -r run
}
within experts model.embed=256 ffn.experts=64 ffn.hidden=512 train.seq=64 train.batch=4 \
    "data.valid=10 %"
within vocabulary model.embed=128 model.vocab_size=400000 ffn.kind=dense ffn.hidden=128 \
    train.seq=32 train.batch=2
within activations model.embed=64 ffn.experts=4 ffn.hidden=128 train.seq=512 train.batch=140 \
    train.steps=1
