#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/resume.sh: a run that was stopped, by its limits, by SIGTERM or by a crash, and goes on by
# the same command, gives bit for bit the losses and parameters of one that never stopped.
. "$2/tests/run/lib.sh"

documents 300 >tales.jsonl
expect 0 "$lmoe" data prepare --in tales.jsonl --out tales
cat >run.ini <<EOF
[run]
dir          = whole
seed         = 3
save_every   = 5
[model]
embed        = 32
layers       = 2
pattern      = LN
[layer L]
class        = lsm/gla
heads        = 2
short_conv   = yes
[layer N]
class        = lsm/attention
heads        = 2
[ffn]
experts      = 4
top_k        = 2
hidden       = 32
[data]
train        = tales.bin
valid        = 10 %
packed       = yes
[train]
seq          = 32
batch        = 64
accumulate   = 2
steps        = 20
lr           = 1e-2
warmup       = 3
eval_every   = 6
EOF
# train DIR OPTION...
train()
{
    dir=$1
    shift
    "$lmoe" train run.ini --set run.dir="$dir" "$@"
}
expect 0 train whole
[ "$(wc -l <whole/metrics.jsonl)" -eq 20 ] || fail "not every step has its line of metrics"
[ "$(newest whole)" -eq 20 ] || fail "the last step has no checkpoint"
for i in 1 20; do
    grep -q "^{\"step\":$i,\"train_loss\":[0-9.]*,\"grad_norm\":" whole/metrics.jsonl ||
        fail "step $i has no losses"
done

# the same again: nothing is drawn from the time or from addresses
expect 0 train again
same_run whole again
# a run that is complete stays as it is
expect 0 train again
grep -q "going on after step 20" out || fail "the complete run is not recognised"
same_run whole again

# by the number of steps; the schedule has no end to depend on
expect 0 train flat --set train.schedule=constant
for steps in 7 13 20; do
    expect 0 train parts --set train.schedule=constant --set train.steps=$steps
done
# each part ends with an evaluation that the whole has not
sed 's/,"val_.*}/}/' flat/metrics.jsonl >flat/m && mv flat/m flat/metrics.jsonl
sed 's/,"val_.*}/}/' parts/metrics.jsonl >parts/m && mv parts/m parts/metrics.jsonl
same_run flat parts

# by the clock: time for one step each
for i in 1 2 3; do
    expect 0 train clock --set run.minutes=1e-9
    [ "$(newest clock)" -eq $i ] || fail "more or less than one step in no time"
done
expect 0 train clock
sed '1,3s/,"val_.*}/}/' clock/metrics.jsonl >clock/m && mv clock/m clock/metrics.jsonl
same_run whole clock

# stop SIGNAL CODE DIR LINE...: signals at these lines of metrics, then to the end
stop()
{
    signal=$1 code=$2 dir=$3
    shift 3
    for line in "$@"; do
        expect "$code" "$helpers/signal_at" "$signal" "$line" "$dir/metrics.jsonl" \
            "$lmoe" train run.ini --set run.dir="$dir"
    done
    expect 0 train "$dir"
    same_run whole "$dir"
}
stop 15 75 term 3 10 11
# before the first checkpoint, behind one, with many lines of metrics to be written again
stop 9 137 kill 2 7 12
# a crash may leave half a line
expect 137 "$helpers/signal_at" 9 8 torn/metrics.jsonl "$lmoe" train run.ini --set run.dir=torn
size=$(head -n 6 torn/metrics.jsonl | wc -c)
head -c $((size + 30)) torn/metrics.jsonl >m && mv m torn/metrics.jsonl
expect 0 train torn
same_run whole torn
