#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/bf16.sh: a run in bf16 follows that in f32, halves what it keeps of weights, resumes bit
# for bit, and generates. Weights round to bf16, their masters move on in f32: without them, updates
# smaller than a 256th of a weight would be lost.
. "$2/tests/run/lib.sh"

documents 200 | sed 's/.*"text": "\(.*\)"}/\1/' >tales.txt
cat >run.ini <<EOF
[run]
dir          = f32
[model]
embed        = 32
layers       = 2
pattern      = LN
[layer L]
class        = lsm/gla
heads        = 2
[layer N]
class        = lsm/attention
heads        = 2
[ffn]
experts      = 4
top_k        = 2
hidden       = 24
[data]
train        = tales.txt
[train]
seq          = 32
batch        = 8
accumulate   = 2
steps        = 24
lr           = 3e-3
EOF
train()
{
    dir=$1
    shift
    "$lmoe" train run.ini --set run.dir="$dir" --set train.schedule=constant "$@"
}
expect 0 train f32
expect 0 train whole --set train.dtype=bf16
expect 0 train means --set train.dtype=bf16 --set train.adam_dtype=bf16
expect 0 train parts --set train.dtype=bf16 --set train.steps=9
expect 0 train parts --set train.dtype=bf16
same_run whole parts
# what is computed again has the bits of what was kept
expect 0 train again --set train.dtype=bf16 --set train.recompute=experts
same_run whole again

# follows RUN: the first loss within 0.2 %, the mean of the last eight within 2 % of f32's
follows()
{
    for run in f32 "$1"; do
        sed 's/.*"train_loss":\([0-9.]*\).*/\1/' $run/metrics.jsonl
    done | awk -v n=24 '{ loss[NR] = $1 } END {
        for (i = n - 7; i <= n; i++) { a += loss[i]; b += loss[n + i] }
        first = loss[n + 1] / loss[1] - 1
        last = b / a - 1
        print "first loss off by " first ", last ones by " last
        exit !(NR == 2 * n && first ^ 2 < 0.002 ^ 2 && last ^ 2 < 0.02 ^ 2 && b / 8 < loss[1] - 0.5)
    }' >out || fail "$1 does not follow the run in f32"
}
follows whole
follows means

size()
{
    wc -c <"$1/checkpoints/step-24/$2-00001-of-00001.safetensors"
}
[ "$(size f32 model)" -gt $(($(size whole model) * 17 / 10)) ] ||
    fail "weights in bf16 take as much as in f32"
[ "$(size means optimizer)" -lt $(($(size whole optimizer) * 3 / 4)) ] ||
    fail "means in bf16 take as much as in f32"

# a checkpoint says its dtype, and is read as no other
expect 2 train f32 --set train.dtype=bf16 --set train.steps=30
grep -q "BF16" err || fail "a checkpoint in f32 goes on in bf16 unnoticed"
expect 0 "$lmoe" generate run.ini --set run.dir=whole --set train.dtype=bf16 --prompt "tale" --tokens 8
