#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/golden.sh: the losses of a tiny run in float64, on the references of all ops alone, are
# those of the day they were recorded. Whoever changes them on purpose records them again: run with
# any fourth argument, it prints what it finds.
. "$2/tests/run/lib.sh"

documents 60 >tales
cat >run.ini <<EOF
[run]
dir          = run
seed         = 42
[model]
embed        = 32
layers       = 4
pattern      = LRBN
[layer L]
class        = lsm/gla
heads        = 2
short_conv   = yes
[layer R]
class        = lsm/retention
heads        = 2
[layer B]
class        = lsm/bla
heads        = 2
[layer N]
class        = lsm/attention
heads        = 4
kv_heads     = 2
[ffn]
experts      = 4
top_k        = 2
hidden       = 24
shared_hidden = 16
[router]
aux_loss     = 0.01
z_loss       = 0.001
[data]
train        = tales
valid        = 20 %
[train]
dtype        = f64
seq          = 32
batch        = 4
accumulate   = 2
steps        = 5
lr           = 1e-2
EOF
# step, training loss, norm of the gradients; then the routers' two losses and that on held-out text
cat >recorded <<EOF
1 5.52842938 1.8897954
2 5.32872347 5.47599295
3 4.75551285 1.98955469
4 4.5891075 1.58558391
5 4.49142467 1.59915139
0.0837870282 0.00560689287 4.47070694
EOF
# numbers: of ./run, like that
numbers()
{
    sed 's/^{"step":\([0-9]*\),"train_loss":\([^,]*\),"grad_norm":\([^,]*\),.*/\1 \2 \3/' \
        run/metrics.jsonl
    sed -n 's/.*"moe\/aux_loss":\([^,]*\),"moe\/z_loss":\([^,]*\),"val_loss":\([^,]*\),.*/\1 \2 \3/p' \
        run/metrics.jsonl
}
# near LIMIT: relative; of ./found to ./recorded
near()
{
    paste -d ' ' recorded found | awk -v limit="$1" '
        function off(a, b) { return (a - b) ^ 2 > (limit * a) ^ 2 }
        NF != 6 || off($1, $4) || off($2, $5) || off($3, $6) { print; wrong = 1 }
        END { exit wrong || NR != 6 }' >err ||
        fail "these are not the losses that were recorded (recorded, then found)"
}
expect 0 "$lmoe" train run.ini
numbers >found
[ $# -lt 4 ] || cat found
near 1.1e-8 # they have nine digits, and the last may be rounded otherwise

# the device's kernels in float32 come to the same, but for rounding
rm -r run
expect 0 "$lmoe" train run.ini --set train.dtype=f32
numbers >found
near 1e-4
