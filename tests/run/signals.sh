#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/signals.sh: SIGINT and SIGTERM, at any time, save and end with exit code 75, and the same
# command goes on as if nothing had been.
. "$2/tests/run/lib.sh"

documents 300 >tales
i=0
while [ $i -lt 4 ]; do # an evaluation that takes long enough to be caught in
    cat tales
    i=$((i + 1))
done >more
cat >run.ini <<EOF
[run]
dir          = whole
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
valid        = more
[train]
seq          = 32
batch        = 16
steps        = 6
lr           = 1e-2
eval_every   = 3
EOF
expect 0 "$lmoe" train run.ini

# stop SIGNAL WHEN STEP: the checkpoint is that of the last step; the next run gives what is missing
stop()
{
    dir=at-$1-$2
    expect 75 "$helpers/signal_at" "$1" "$2" $dir/metrics.jsonl "$lmoe" train run.ini \
        --set run.dir=$dir
    grep -q "stopped by a signal after step $3; the same command goes on" out ||
        fail "the last line does not say that step $3 was the last"
    [ "$(ls $dir/checkpoints)" = "step-$3" ] || fail "no checkpoint of step $3"
    expect 0 "$lmoe" train run.ini --set run.dir=$dir
    grep -q "going on after step $3" out || [ "$3" -eq 0 ] || fail "begins anew"
    same_run whole $dir
}
for signal in 2 15; do
    stop $signal 0 0     # before anything
    stop $signal 2+20 3 # in the evaluation after step 3
    stop $signal 5+20 6 # in the last one
done

# what a signal left to be evaluated survives another signal, and a crash
dir=often
for when in 2+20 0 0; do
    expect 75 "$helpers/signal_at" 15 $when $dir/metrics.jsonl "$lmoe" train run.ini \
        --set run.dir=$dir
done
expect 137 "$helpers/signal_at" 9 3 $dir/metrics.jsonl "$lmoe" train run.ini --set run.dir=$dir
expect 0 "$lmoe" train run.ini --set run.dir=$dir
same_run whole $dir
