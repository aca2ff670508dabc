#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/layouts.sh: how a run is spread over ranks is one line of its file, and changes its losses
# by rounding only; a failure on one rank ends all.
. "$2/tests/run/lib.sh"

documents 200 >tales.jsonl
expect 0 "$lmoe" data prepare --in tales.jsonl --out tales
cat >run.ini <<EOF
[run]
dir          = run
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
hidden       = 32
[router]
aux_loss     = 0.01
z_loss       = 0.001
[data]
train        = tales.bin
valid        = 10 %
packed       = yes
[train]
seq          = 32
batch        = 8
accumulate   = 2
steps        = 12
lr           = 3e-3
eval_every   = 5
[parallel]
comm         = comm/loop
EOF
# close DIR: numbers of metrics.jsonl against those of one rank
close()
{
    paste one/metrics.jsonl "$1/metrics.jsonl" | awk '
        function number(line, key) {
            if (!match(line, "\"" key "\":[-+.e0-9]+")) return "none"
            return substr(line, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        }
        function compare(key, limit,    a, b) {
            a = number(ours, key)
            b = number(theirs, key)
            if (a == "none" && b == "none" && key ~ /val/) return
            compared[key]++
            if (a != "none" && b != "none" && (a - b) ^ 2 <= (limit * a) ^ 2) return
            print key ": " a " with one rank, " b " here, in " theirs
            wrong = 1
        }
        BEGIN { FS = "\t" }
        {
            ours = $1
            theirs = $2
            compare("step", 0)
            compare("train_loss", 1e-5)
            compare("grad_norm", 1e-4)
            compare("val_loss", 1e-5)
            compare("val_bits_per_byte", 1e-5)
            compare("moe/aux_loss", 1e-3)
        }
        END { exit wrong || compared["step"] != 12 || compared["val_loss"] != 3 }' >err ||
        fail "$1 has other losses than one rank"
}
expect 0 "$lmoe" train run.ini --set run.dir=one
expect 0 "$lmoe" train run.ini --set run.dir=self --set parallel.comm=comm/self
same_run one self
for mesh in dp:2 sp:2 "dp:2 sp:2" "sp:2 dp:2" dp:1; do
    dir=$(echo "$mesh" | tr ': ' -.)
    expect 0 "$lmoe" train run.ini --set run.dir="$dir" --set "parallel.mesh=$mesh"
    close "$dir"
done

# a layout is a choice of the hour: what one began another takes further
expect 0 "$lmoe" train run.ini --set run.dir=mixed --set parallel.mesh=dp:2 --set train.steps=6 \
    --set train.schedule=constant
expect 0 "$lmoe" train run.ini --set run.dir=mixed --set parallel.mesh=sp:2 \
    --set train.schedule=constant
expect 0 "$lmoe" train run.ini --set run.dir=one --set run.resume=no --set train.schedule=constant
sed '6s/,"val_.*}/}/' mixed/metrics.jsonl >m && mv m mixed/metrics.jsonl
close mixed

# signals and failures reach all ranks
expect 75 "$helpers/signal_at" 15 4 stopped/metrics.jsonl "$lmoe" train run.ini \
    --set run.dir=stopped --set "parallel.mesh=dp:2 sp:2" --set train.batch=64
expect 0 "$lmoe" train run.ini --set run.dir=stopped --set "parallel.mesh=dp:2 sp:2" \
    --set train.batch=64
[ "$(wc -l <stopped/metrics.jsonl)" -eq 12 ] || fail "not every step has its line of metrics"
expect 1 "$lmoe" train run.ini --set run.dir=nan --set parallel.mesh=dp:2 --set train.lr=100 \
    --set train.weight_decay=10 --set train.clip=0 --set train.steps=30
says "^lmoe: step [0-9]+: loss .*, gradient norm .*: [a-z_]+\.c:[0-9]+"
[ "$(wc -l <err)" -eq 1 ] || fail "more than one sentence"
