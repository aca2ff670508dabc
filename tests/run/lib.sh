# SPDX-License-Identifier: Apache-2.0
# tests/run/lib.sh: what the scripts of this folder share. A script is called with the lmoe command,
# the source root and the folder of the built helpers, and sources this first. It works in a new
# folder, which is removed at the end.
set -eu
lmoe=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
helpers=$3
place=${TMPDIR:-/dev/shm} # in memory: checkpoints are synced, and a test need not wait for disks
[ -w "$place" ] || place=/tmp
work=$(mktemp -d "$place/lmoe-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
# findings of sanitizers, if lmoe is built with them, are failures like no other
export ASAN_OPTIONS="exitcode=99:${ASAN_OPTIONS-}"
export UBSAN_OPTIONS="exitcode=99:halt_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS-}"

fail()
{
    echo "FAILED: $*"
    for f in out err; do
        [ ! -s $f ] || sed "s/^/  $f: /" $f
    done
    exit 1
}

# expect CODE COMMAND...: its output goes to ./out and ./err
expect()
{
    code=$1
    shift
    got=0
    "$@" >out 2>err || got=$?
    [ "$got" -eq "$code" ] || fail "exit code $got instead of $code: $*"
}

# says PATTERN...: each is in ./err (extended regular expressions)
says()
{
    for pattern in "$@"; do
        grep -Eq -e "$pattern" err || fail "nothing is said like '$pattern'"
    done
}

# documents N: so many short ones, as JSON lines
documents()
{
    awk -v n="$1" 'BEGIN {
        split("the red wolf ran over a cold hill and back home again to see who sang", w, " ")
        for (i = 0; i < n; i++) {
            text = "tale " i ":"
            for (k = 0; k < 3 + i * 7 % 23; k++) text = text " " w[1 + (i * k + k * k) % 15]
            printf "{\"text\": \"%s.\"}\n", text
        }
    }'
}

# losses RUN: metrics without what depends on the machine
losses()
{
    sed 's/,"tokens_per_s":[^,}]*//; s/,"comm[a-z_/]*exposed_s":[^,}]*//g' "$1/metrics.jsonl"
}

# same_state A B: the newest checkpoint of two runs holds the same bytes
newest()
{
    ls "$1/checkpoints" | sed -n 's/^step-//p' | sort -n | tail -n 1
}
same_state()
{
    a=$1/checkpoints/step-$(newest "$1")
    b=$2/checkpoints/step-$(newest "$2")
    for f in model-00001-of-00001 optimizer-00001-of-00001; do
        cmp "$a/$f.safetensors" "$b/$f.safetensors" || fail "$2 has other parameters than $1"
    done
}

# same_run A B: the same losses, step by step, and the same state
same_run()
{
    losses "$1" >expected
    losses "$2" >found
    diff expected found >err || fail "$2 has other losses than $1"
    same_state "$1" "$2"
}
