#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/plugins/mpi.sh: comm/mpi between processes: every exchange, and that whatever goes wrong ends
# every rank with a message. Usage: mpi.sh MPI_RANKS SOURCE_ROOT
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
. "$2/tests/mpi.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail()
{
    echo "FAILED: $*"
    cat out err
    exit 1
}

for n in 1 2 3 4; do
    ranks $n "$program" exchange >out 2>err || fail "exchanges of $n ranks"
    [ "$(grep -c ": 0 wrong" out)" -eq $n ] || fail "not all of $n ranks were right"
done

# wrong WHAT PATTERN...: three ranks fail within 5 seconds of the time-out, and each pattern is said
wrong()
{
    what=$1
    shift
    start=$(date +%s)
    ! ranks 3 "$program" "$what" 2 >out 2>err || fail "$what: no failure"
    [ $(($(date +%s) - start)) -le 7 ] || fail "$what: it took too long"
    for pattern in "$@"; do
        grep -Eq -e "$pattern" err || fail "$what: nothing is said like '$pattern'"
    done
}
ours="all_reduce number 2 \(sum of 8 f32\)"
wrong gather "^rank 0: rank 0 called $ours while rank 1 of 3 called all_gather number 2 \(8 f32 of each" \
    "^rank 1: rank 1 called all_gather number 2 .* while rank 0 of 3 called $ours" \
    "^rank 2: rank 2 called $ours while rank 1 of 3 called all_gather"
wrong count "^rank 0: .* while rank 1 of 3 called all_reduce number 2 \(sum of 9 f32\)"
wrong message "^rank 0: .*recv number 1 \(4 f32 from rank 1, tag 0\), but the message has 3 elements"
wrong absent "^rank [02]: rank [02] has waited for [0-9.]+ seconds in $ours, which is the time-out" \
    "^rank 0: rank 0 .*; rank 2 waits for .* in $ours; nothing is heard of rank 1" \
    "^rank 2: rank 2 .*; rank 0 waits for .* in $ours; nothing is heard of rank 1"
wrong abort "^rank 0: rank 0 waits for .* in $ours; rank 1 has failed, and aborts the run"
