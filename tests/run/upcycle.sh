#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/upcycle.sh: lmoe convert upcycle: the mixture begins with the dense model's loss and trains
# on; what does not fit together is refused, and nothing is written then.
. "$2/tests/run/lib.sh"

documents 60 >tales
# file KIND DIR LINES: of [ffn] and after it
file()
{
    cat <<END
[run]
dir          = $2
[model]
embed        = 16
layers       = 2
[layer L]
class        = lsm/gla
heads        = 2
[data]
train        = tales
valid        = 10 %
[train]
seq          = 16
batch        = 4
steps        = 6
warmup       = 2
lr           = 1e-2
dtype        = f64
[ffn]
kind         = $1
hidden       = 12
$3
END
}
file dense dense "" >dense.ini
file moe mixture "experts = 4
shared_hidden = 6
router = moe/deepseek_v3" >moe.ini
# held RUN: the loss on held-out text, all digits, of its last step
held()
{
    sed -n 's/.*"val_loss":\([^,]*\),.*/\1/p' "$1/metrics.jsonl" | tail -n 1
}
expect 0 "$lmoe" train dense.ini

# refused, in words, before anything is made
expect 2 "$lmoe" convert upcycle moe.ini dense.ini
says 'first run file must have \[ffn\] kind = dense'
expect 2 "$lmoe" convert upcycle dense.ini moe.ini --set ffn.hidden=10
says "needs \( 16 10 \), the dense model has \( 16 12 \)"
expect 2 "$lmoe" convert upcycle dense.ini moe.ini --set ffn.activation=gelu
says 'have no place in the mixture'
expect 2 "$lmoe" convert upcycle dense.ini moe.ini --noise much
says '--noise is a number'
expect 2 "$lmoe" convert upcycle dense.ini
[ ! -e mixture ] || fail "a refused conversion left something"

expect 0 "$lmoe" convert upcycle dense.ini moe.ini
grep -Eq 'dense ([0-9.]+), mixture \1$' out || fail "the losses differ"
expect 2 "$lmoe" convert upcycle dense.ini moe.ini
says 'already'
# a step that moves nothing, to see the loss on held-out text
expect 0 "$lmoe" train moe.ini --set train.steps=1 --set train.warmup=0 --set train.lr=1e-15
dense=$(held dense) mixture=$(held mixture)
awk -v a="$dense" -v b="$mixture" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-20) }' ||
    fail "the dense model has $dense nats, the mixture $mixture"
expect 0 "$lmoe" train moe.ini
grep -q '"step":6,' mixture/metrics.jsonl || fail "it does not train on"

# noise makes experts differ; weights that do not sum to 1 are told
rm -r mixture
expect 0 "$lmoe" convert upcycle dense.ini moe.ini --noise 0.5
grep -Eq 'dense ([0-9.]+), mixture \1$' out && fail "noise changes nothing"
rm -r mixture
expect 0 "$lmoe" convert upcycle dense.ini moe.ini --set ffn.router=moe/qwen2
grep -q 'do not sum to 1' out || fail "it is not told that weights do not sum to 1"
