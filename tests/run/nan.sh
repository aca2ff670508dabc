#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/nan.sh: a step whose loss is not finite changes nothing: nan = abort ends there and names
# the step, the op and its source line; nan = skip goes on and says which steps it left out.
. "$2/tests/run/lib.sh"

documents 60 >tales
# a learning rate and a weight decay that multiply the weights by -999 in each step
cat >run.ini <<EOF
[run]
dir          = run
save_every   = 1
keep_last    = 99
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
hidden       = 32
[data]
train        = tales
[train]
seq          = 32
batch        = 8
accumulate   = 2
steps        = 30
lr           = 100
weight_decay = 10
schedule     = constant
clip         = 0
EOF
# numbers FILE: what follows the header, which names the step
numbers()
{
    head=$(od -An -tu8 -N 8 "$1" | tr -d ' ')
    tail -c +$((9 + head)) "$1"
}
# finite DIR: no weight and no state of the optimiser in its newest checkpoint is NaN or infinite
finite()
{
    for f in "$1/checkpoints/step-$(newest "$1")"/*.safetensors; do
        numbers "$f" | od -An -v -tfF >text
        [ -s text ] || fail "$f holds no numbers"
        ! grep -i -m 1 -E 'nan|inf' text || fail "$f is poisoned"
    done
}

expect 1 "$lmoe" train run.ini
says "^lmoe: step [0-9]+: loss [-a-z0-9.+]+, gradient norm [-a-z0-9.+]+: [a-z_]+\.c:[0-9]+(, layer [01])?: " \
    "of [a-z_]+/1( \(backward\))? is NaN or infinite at element [0-9]+; this step has changed nothing" \
    "A lower \[train\] lr or clip may help; nan = skip leaves such steps out$"
[ "$(wc -l <err)" -eq 1 ] || fail "more than one sentence"
bad=$(sed 's/^lmoe: step \([0-9]*\):.*/\1/' err)
last=$((bad - 1))
[ "$bad" -gt 3 ] || fail "it should not come to that before step 4"
[ "$(newest run)" -eq $last ] || fail "the newest checkpoint is not of the step before"
[ "$(wc -l <run/metrics.jsonl)" -eq $last ] || fail "metrics of other steps than 1 to $last"
! grep -iE 'nan|inf' run/metrics.jsonl || fail "metrics are no JSON"
finite run

# the checkpoint is good for as long as one likes: the same step fails again, and eagerly too
cp -r run before
expect 1 "$lmoe" train run.ini --eager
says "^lmoe: [a-z_]+\.c:[0-9]+(, layer [01])?: [a-z_]+ of [a-z_]+/1.* is NaN or infinite"
expect 1 "$lmoe" train run.ini
says "^lmoe: step $bad: "
diff -r before/checkpoints run/checkpoints || fail "a checkpoint has changed"

# what is left out leaves no trace in weights and optimiser
expect 0 "$lmoe" train run.ini --set train.nan=skip --set run.dir=skip
[ "$(grep -c '^lmoe: warning: step [0-9]* left out: loss [-a-z0-9.+]*, gradient norm' err)" -eq \
    $((30 - last)) ] || fail "not every step that was left out is reported"
says "step $bad left out" "step 30 left out"
[ "$(newest skip)" -eq 30 ] || fail "it did not go on"
for f in model-00001-of-00001.safetensors optimizer-00001-of-00001.safetensors; do
    numbers skip/checkpoints/step-30/$f >a
    numbers run/checkpoints/step-$last/$f >b
    cmp a b || fail "$f is not as it was before step $bad"
done
finite skip
[ "$(wc -l <skip/metrics.jsonl)" -eq 30 ] || fail "a step has no line of metrics"
! grep -iE 'nan|inf' skip/metrics.jsonl || fail "metrics are no JSON"
