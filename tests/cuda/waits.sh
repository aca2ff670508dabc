#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/cuda/waits.sh LMOE COUNTER: between two looks at the loss the host never waits for the GPU: a
# run of 14 steps waits as often as one of 4, if each looks at its last step only. Each look does wait.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $2 in /*) counter=$2 ;; *) counter=$PWD/$2 ;; esac
case $1 in /*) lmoe=$1 ;; *) lmoe=$PWD/$1 ;; esac
cd "$work"
seq 20000 >text.txt
cat >run.ini <<END
[model]
embed      = 64
layers     = 2
pattern    = LN
[layer L]
class      = lsm/gla
heads      = 2
[layer N]
class      = lsm/attention
heads      = 2
[ffn]
experts    = 4
top_k      = 2
hidden     = 32
[data]
train      = text.txt
[train]
seq        = 64
batch      = 4
accumulate = 2
dtype      = bf16
[device]
class      = device/cuda
END
if ! "$lmoe" train run.ini --set run.dir=first --set train.steps=1 >out 2>&1; then
    grep -q "no CUDA device" out && exit 77
    cat out
    exit 1
fi
# waits STEPS LOG_EVERY
waits()
{
    WAITS="$work/waits" LD_PRELOAD="$counter" "$lmoe" train run.ini --set run.dir="run-$1-$2" \
        --set train.steps="$1" --set run.log_every="$2" >out 2>&1 || {
        cat out >&2
        exit 1
    }
    tail -n 1 waits
}
few=$(waits 4 100)
many=$(waits 14 100)
each=$(waits 14 1)
echo "waits of the host: $few in 4 steps, $many in 14, $each in 14 with a look at each"
[ "$few" -eq "$many" ] || { echo "FAILED: $((many - few)) waits in 10 steps"; exit 1; }
[ "$each" -gt "$many" ] || { echo "FAILED: looking does not count, so nothing was counted"; exit 1; }
