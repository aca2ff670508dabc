#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/exchanges.sh: what sequence parallelism exchanges for a layer, in bytes that rank 0
# measured, is what docs/parallel.md says: nothing of it depends on seq, and under parallel/scan
# nothing on the number of ranks.
. "$2/tests/run/lib.sh"

documents 400 >tales.jsonl
expect 0 "$lmoe" data prepare --in tales.jsonl --out tales
cat >run.ini <<EOF
[model]
embed        = 32
layers       = 3
[layer L]
class        = lsm/gla
heads        = 4
[ffn]
kind         = dense
hidden       = 16
[data]
train        = tales.bin
[train]
batch        = 2
steps        = 2
[parallel]
comm         = comm/loop
EOF
# gla: embed 32 has key size 16 and value size 32 in 4 heads, so a head's state is 4 x 8
layers=3
state=$((2 * 4 * 4 * 8 * 4))
decay=$((2 * 4 * 4 * 4))

# received SEQ RANKS STRATEGY EXCHANGE BYTES: of a step
received()
{
    expect 0 "$lmoe" train run.ini --set run.dir="run-$1-$2-$3" --set train.seq="$1" \
        --set parallel.mesh="sp:$2" --set parallel.sp="parallel/$3"
    bytes=$(tail -n 1 "run-$1-$2-$3/metrics.jsonl" | sed -n "s|.*comm/$4/bytes\":\([0-9]*\).*|\1|p")
    [ "$bytes" = "$5" ] || fail "$3 with seq $1 on $2 ranks: $4 brought '$bytes' bytes, not $5"
}
for seq in 32 64; do
    for ranks in 2 4; do
        received $seq $ranks lasp2 all_gather $((2 * layers * (ranks - 1) * (state + decay)))
        received $seq $ranks scan recv $((layers * state)) # rank 0: in the backward pass alone
        received $seq $ranks ring recv $((layers * state))
    done
done
