#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/mpi.sh: ranks that are processes: the same bits as threads; a rank that is killed or
# stopped ends the run with words of where the others waited, and the same command goes on.
. "$2/tests/mpi.sh"
. "$2/tests/run/lib.sh"

documents 200 >tales
cat >run.ini <<EOF2
[run]
save_every   = 1
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
[data]
train        = tales
valid        = 10 %
[train]
seq          = 32
batch        = 8
accumulate   = 2
steps        = 6
lr           = 3e-3
eval_every   = 3
[parallel]
comm         = comm/mpi
EOF2

for layout in "2 sp:2" "4 dp:2 sp:2" "8 sp:4 dp:2"; do
    n=${layout%% *} mesh=${layout#* }
    expect 0 "$lmoe" train run.ini --set run.dir=threads-$n --set "parallel.mesh=$mesh" \
        --set parallel.comm=comm/loop
    expect 0 ranks $n "$lmoe" train run.ini --set run.dir=processes-$n --set "parallel.mesh=$mesh"
    same_run threads-$n processes-$n
    [ "$(grep -c "6 steps in" out)" -eq 1 ] || fail "not one rank, but several report"
done

# the ranks that there are must be those of the mesh
expect 2 ranks 2 "$lmoe" train run.ini --set parallel.mesh=dp:4
says "^lmoe: .*the mesh has 4 ranks, but .* has started 2 \("
expect 2 ranks 2 "$lmoe" train run.ini --set parallel.mesh=dp:2 --set parallel.comm=comm/loop
says "has started 2 processes .*use comm = comm/mpi, or start one process"

# a failure of the run itself: each rank ends
expect 1 ranks 2 "$lmoe" train run.ini --set run.dir=nan --set parallel.mesh=dp:2 --set train.lr=100 \
    --set train.weight_decay=10 --set train.clip=0 --set train.steps=30
says "^lmoe\[[01]\]: error: step [0-9]+: loss .*, gradient norm .*: [a-z_]+\.c:[0-9]+"

# hit SIGNAL DIR: sends it to rank 1 when step 3 is done
hit()
{
    rm -f pids
    ranks 3 sh -c 'echo "${OMPI_COMM_WORLD_RANK-$PMI_RANK} $$" >>pids; exec "$@"' run "$lmoe" train \
        run.ini --set run.dir="$2" --set parallel.mesh=dp:3 --set train.batch=12 --set comm.timeout=2 \
        --set train.steps=400 --set train.schedule=constant >out 2>err &
    launcher=$!
    tries=0
    until [ -s "$2/metrics.jsonl" ] && [ "$(wc -l <"$2/metrics.jsonl")" -ge 3 ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "the run does not begin"
        sleep 0.1
    done
    kill -"$1" "$(sed -n 's/^1 //p' pids)"
    start=$(date +%s)
    got=0
    wait $launcher || got=$?
    seconds=$(($(date +%s) - start))
}
# goes_on DIR: as a run that nothing has happened to
goes_on()
{
    steps=$(($(newest "$1") + 2))
    expect 0 "$lmoe" train run.ini --set run.dir="$1" --set parallel.mesh=dp:3 --set train.batch=12 \
        --set parallel.comm=comm/loop --set train.steps=$steps --set train.schedule=constant
    grep -q "going on after step" out || fail "begins anew"
    expect 0 "$lmoe" train run.ini --set run.dir=whole-"$1" --set parallel.mesh=dp:3 \
        --set train.batch=12 --set parallel.comm=comm/loop --set train.steps=$steps \
        --set train.schedule=constant
    same_state whole-"$1" "$1"
}
hit STOP stopped
[ "$got" -ne 0 ] || fail "a rank stood still, and the run has ended well"
[ $seconds -le 7 ] || fail "a rank stood still, and the others needed $seconds s to end"
says "^lmoe\[0\]: error: .*all_reduce number [0-9]+ \(.*nothing is heard of rank 1" \
    "^lmoe\[2\]: error: .*all_reduce number [0-9]+ \(.*nothing is heard of rank 1"
goes_on stopped
hit KILL killed
[ "$got" -ne 0 ] || fail "a rank was killed, and the run has ended well"
[ $seconds -le 7 ] || fail "a rank was killed, and the others needed $seconds s to end"
# (MPICH kills all of them at once when it has lost one)
[ -z "$how" ] || says "^lmoe\[0\]: .* in all_[a-z]+ number [0-9]+ \(" \
    "^lmoe\[2\]: .* in all_[a-z]+ number [0-9]+ \("
goes_on killed

# a signal to any rank saves and stops all of them
hit TERM asked
[ "$got" -eq 75 ] || fail "exit code $got instead of 75"
grep -q "stopped by a signal after step" out || fail "no word of the signal"
goes_on asked

# ranks of different builds: here of a plugin whose file differs in one byte
gla=$(dirname "$lmoe")/plugins/lsm-gla.so
if [ -e "$gla" ]; then
    mkdir other
    cp "$gla" other
    printf '\0' >>other/lsm-gla.so
    train="$lmoe train run.ini --set run.dir=mixed --set parallel.mesh=dp:2"
    # Open MPI's mpirun itself may crash when two programs end with an error at once: any failure counts.
    expect 1 sh -c '"$@" || exit 1' sh timeout 100 mpirun $how -n 1 $train : -n 1 $train --plugin-path other
    says "different builds of lsm/gla: rank 0 has .*/plugins/lsm-gla.so with digest [0-9a-f]{32}, rank 1 has .*/other/lsm-gla.so with digest [0-9a-f]{32}; give all ranks"
    [ ! -e mixed/checkpoints ] || [ -z "$(ls mixed/checkpoints)" ] || fail "a step was run"
fi
