#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/stages.sh: runs whose layers are spread over the ranks of a pipeline: the metrics of one
# rank, checkpoints that go on at another layout, cuts that are refused, failures that end all ranks.
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
[layer N]
class        = lsm/attention
heads        = 2
[ffn]
experts      = 4
hidden       = 16
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
accumulate   = 4
steps        = 8
lr           = 5e-4
dtype        = f64
schedule     = constant
eval_every   = 5
[parallel]
comm         = comm/loop
EOF

# same_losses DIR: DIR reports what one rank reports, in nine digits
digits()
{
    losses "$1" | sed 's/,"comm[^,}]*//g' | awk '{
        out = ""
        while (match($0, /:[-+.e0-9]+/)) {
            out = out substr($0, 1, RSTART) sprintf("%.9g", substr($0, RSTART + 1, RLENGTH - 1))
            $0 = substr($0, RSTART + RLENGTH)
        }
        print out $0
    }'
}
same_losses()
{
    digits one >expected
    digits "$1" >found
    diff expected found >err || fail "$1 has other metrics than one rank"
}
expect 0 "$lmoe" train run.ini --set run.dir=one
expect 0 "$lmoe" train run.ini --set run.dir=pp2 --set parallel.mesh=pp:2
same_losses pp2
expect 0 "$lmoe" train run.ini --set run.dir=pp4 --set parallel.mesh=pp:4 --set model.tie_embeddings=no
expect 0 "$lmoe" train run.ini --set run.dir=mixed --set "parallel.mesh=dp:2 pp:2" --set pp.interleave=2
same_losses mixed
grep -q '"comm/stages/bytes":[1-9]' mixed/metrics.jsonl || fail "no metrics of what stages send"
expect 0 "$lmoe" plan run.ini --set pp.interleave=2 # options of an axis that is not in the mesh

# what one layout began another takes further
expect 0 "$lmoe" train run.ini --set run.dir=goes --set parallel.mesh=pp:4 --set train.steps=3
expect 0 "$lmoe" train run.ini --set run.dir=goes --set train.steps=5
expect 0 "$lmoe" train run.ini --set run.dir=goes --set "parallel.mesh=pp:2 sp:2" \
    --set "pp.layers=1 3"
sed '3s/,"val_.*}/}/' goes/metrics.jsonl >m && mv m goes/metrics.jsonl
same_losses goes
expect 75 "$helpers/signal_at" 15 3 stopped/metrics.jsonl "$lmoe" train run.ini \
    --set run.dir=stopped --set parallel.mesh=pp:2 --set train.steps=2000 --set train.eval_every=0
expect 0 "$lmoe" train run.ini --set run.dir=stopped --set parallel.mesh=pp:4 \
    --set train.steps="$(newest stopped)" --set train.eval_every=0

# the plan of each stage
expect 0 "$lmoe" plan run.ini --set parallel.mesh=pp:2 --set pp.interleave=2
for pattern in "^pipeline +4 stages on 2 ranks: layers 1 1 1 1" "^memory of rank +0 +1" \
    "^  weights .* [KM]iB .* [KM]iB" "ranks wait [0-9]+ % of a step" "^  pp +send "; do
    grep -Eq "$pattern" out || fail "lmoe plan prints nothing like '$pattern'"
done

# refused
refused()
{
    pattern=$1
    shift
    expect 2 "$lmoe" train run.ini --set run.dir=no "$@"
    says "$pattern"
    [ "$(wc -l <err)" -eq 1 ] || fail "more than one sentence"
}
refused "mesh axis 'pp' .*8 stages .*layers, and the model has 4; take fewer ranks" \
    --set parallel.mesh=pp:8
refused "6 stages \(2 ranks, interleave = 3\).*smaller interleave" --set parallel.mesh=pp:2 \
    --set pp.interleave=3
refused "layers = 2 3 has 2 numbers with the sum 5.*4 layers" --set parallel.mesh=pp:2 \
    --set "pp.layers=2 3"
refused "layers = 4 0: '0' is not a number of layers" --set parallel.mesh=pp:2 --set "pp.layers=4 0"
refused "interleave = 0" --set parallel.mesh=pp:2 --set pp.interleave=0

# a failure on one rank ends all
expect 1 "$lmoe" train run.ini --set run.dir=nan --set parallel.mesh=pp:4 --set train.lr=100 \
    --set train.weight_decay=10 --set train.clip=0 --set train.steps=30 --set train.dtype=f32
says "^lmoe: step [0-9]+: loss .*, gradient norm .*: [a-z_]+\.c:[0-9]+"
[ "$(wc -l <err)" -eq 1 ] || fail "more than one sentence"
