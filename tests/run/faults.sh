#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/faults.sh: ranks that do not begin, that stand still, or that hang on a device: the run ends,
# says which, and the same command goes on. (mpi.sh: processes that are killed and stopped.)
. "$2/tests/run/lib.sh"

documents 100 >tales
cat >run.ini <<EOF
[model]
embed        = 32
layers       = 1
pattern      = L
[layer L]
class        = lsm/gla
heads        = 2
[ffn]
experts      = 4
hidden       = 32
[data]
train        = tales
[train]
seq          = 32
batch        = 8
steps        = 12
[parallel]
comm         = comm/loop
EOF

if [ -e "$helpers/libfail_thread.so" ]; then
    for number in 0 1 3; do
        expect 1 env LD_PRELOAD="$helpers/libfail_thread.so" FAIL_THREAD=$((number + 1)) \
            "$lmoe" train run.ini --set run.dir=few --set "parallel.mesh=dp:2 sp:2"
        says "^lmoe: the system gives no thread to rank $number of 4 .*take a smaller \[parallel\] mesh"
    done

    # a rank that stands still: the others say where they were, the process ends, and the same
    # command goes on
    set -- --set run.dir=still --set parallel.mesh=sp:2 --set run.save_every=1
    start=$(date +%s)
    expect 1 env LD_PRELOAD="$helpers/libhang_rank.so" HANG_AT=6 "$lmoe" train run.ini "$@" \
        --set comm.timeout=1
    [ $(($(date +%s) - start)) -le 6 ] || fail "it took too long"
    says "^lmoe: error: .*has waited for 1 seconds in all_reduce number [0-9]+ \(max of 1 f32\)" \
        "^lmoe: error: .*still at work 3 seconds after that: rank [01], so"
    expect 0 "$lmoe" train run.ini "$@"
    expect 0 "$lmoe" train run.ini "$@" --set run.dir=moving
    same_state moving still
fi

# a rank whose host hangs is ended by the communicator's watch; if it does not hear that, with its process
for deaf in no yes; do
    start=$(date +%s)
    expect 1 env RANK=1 WORLD_SIZE=2 "$lmoe" train run.ini --plugin-path "$helpers" \
        --set run.dir=stuck --set parallel.mesh=dp:2 --set parallel.comm=comm/stuck \
        --set comm.timeout=1 --set comm.deaf=$deaf
    [ $(($(date +%s) - start)) -le 6 ] || fail "it took too long"
    says "^lmoe\[1\]: error: comm/stuck: rank 1 hangs"
    case $deaf in
    no) says "^lmoe\[1\]: error: comm/stuck: aborted" ;;
    yes) says "^lmoe: error: still at work 3 seconds after that: rank 1, so the process ends" ;;
    esac
done
