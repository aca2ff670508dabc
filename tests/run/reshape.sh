#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/reshape.sh: a checkpoint of one layout goes on at any other, with the losses of one rank;
# one line of the run file swaps the strategy of an axis.
. "$2/tests/run/lib.sh"

documents 200 >tales.jsonl
expect 0 "$lmoe" data prepare --in tales.jsonl --out tales
cat >run.ini <<EOF
[run]
dir          = run
[model]
embed        = 16
layers       = 4
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
hidden       = 16
[router]
aux_loss     = 0.01
[data]
train        = tales.bin
packed       = yes
[train]
dtype        = f64
seq          = 16
batch        = 8
accumulate   = 2
steps        = 8
schedule     = constant
lr           = 2e-4
eps          = 1e-6
[parallel]
comm         = comm/loop
EOF
# as_one DIR FIRST: losses and norms from step FIRST on against those of one rank, to 11 digits
as_one()
{
    paste one/metrics.jsonl "$1/metrics.jsonl" | awk -v first="$2" '
        function number(line, key) {
            if (!match(line, "\"" key "\":[-+.e0-9]+")) return "none"
            return substr(line, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        }
        function compare(key,    a, b) {
            a = number($1, key)
            b = number($2, key)
            if (a != "none" && b != "none" && (a - b) ^ 2 <= (1e-11 * a) ^ 2) return
            print key ": " a " with one rank, " b " here"
            wrong = 1
        }
        BEGIN { FS = "\t" }
        number($1, "step") >= first {
            compare("step")
            compare("train_loss")
            compare("grad_norm")
            seen++
        }
        END { exit wrong || seen != 9 - first }' >err || fail "$1 has other losses than one rank"
}
expect 0 "$lmoe" train run.ini --set run.dir=one

expect 0 "$lmoe" train run.ini --set run.dir=first --set train.steps=4 --set "parallel.mesh=tp:2 pp:2 dp:2"
for mesh in "" "sp:4 ep:2" "fsdp:2 tp:2" "dp:4"; do
    dir=then-$(echo "$mesh" | tr -d ' :')
    cp -r first "$dir"
    expect 0 "$lmoe" train run.ini --set run.dir="$dir" --set "parallel.mesh=$mesh"
    as_one "$dir" 5
done
# what was saved in parts goes on at the first layout
cp -r then-fsdp2tp2 back
rm back/checkpoints/step-*8 -r
expect 0 "$lmoe" train run.ini --set run.dir=back --set "parallel.mesh=tp:2 pp:2 dp:2"
as_one back 5

for strategy in lasp2 ring scan ulysses; do
    expect 0 "$lmoe" train run.ini --set run.dir=$strategy --set parallel.mesh=sp:2 \
        --set parallel.sp=parallel/$strategy
    as_one $strategy 1
done
