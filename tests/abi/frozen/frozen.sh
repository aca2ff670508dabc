#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/frozen/frozen.sh: plugins that were built for an older API load in this host, and a model
# made of them trains as it did. Usage: frozen.sh LMOE SOURCE_ROOT FOLDER_OF_THE_PLUGINS VENDOR
. "$2/tests/run/lib.sh"
vendor=$4

"$lmoe" plugin list $helpers/$vendor-*.so >out 2>err || fail "a plugin is refused"
for class in layer router op strategy comm; do
    grep -q "^  $vendor/$class " out || fail "$vendor/$class is not offered"
done

# what is asked of today's plugins, they keep too; the communicator has no messages
for class in layer router op kernel strategy; do
    expect 0 "$lmoe" plugin check --level quick "$helpers/$vendor-$class.so"
done
expect 0 "$lmoe" plugin check --only file --only descriptor "$helpers/$vendor-comm.so"

yes "the red wolf ran over a cold hill and back home again" | head -n 400 >text
cat >run.ini <<EOF
[model]
vocab_size = 256
embed = 32
layers = 4
pattern = LOLL
[layer L]
class = $vendor/layer
[layer O]
class = $vendor/op
[ffn]
kind = moe
experts = 4
top_k = 2
hidden = 32
router = $vendor/router
[data]
train = text
valid = 10 %
[train]
seq = 32
batch = 8
steps = 12
lr = 3e-3
dtype = f64
EOF
train()
{
    name=$1
    shift
    expect 0 "$lmoe" train run.ini --plugin-path "$helpers" --set run.dir="$name" "$@"
}
train one
first=$(sed -n '1s/.*"train_loss":\([0-9.]*\).*/\1/p' one/metrics.jsonl)
last=$(sed -n 's/.*"train_loss":\([0-9.]*\).*/\1/p' one/metrics.jsonl | tail -n 1)
awk "BEGIN { exit !($last < $first - 0.3) }" || fail "the loss does not fall: $first, then $last"
expect 0 "$lmoe" generate run.ini --set run.dir=one --plugin-path "$helpers" --prompt "the red" --tokens 8

# ranks that meet in the old communicator, the sequence split by the old strategy
train many --set parallel.mesh="dp:2 sp:2" --set parallel.comm=$vendor/comm \
    --set parallel.sp=$vendor/strategy
# to the digits that rounding leaves
near()
{
    sed -n 's/.*"train_loss":\([0-9.]*\).*/\1/p' "$1/metrics.jsonl" | awk '{ printf "%.5f\n", $1 }' >"$2"
}
near one expected
near many found
diff expected found >err || fail "the ranks have other losses"

# kernels: of the op beside it, and one for an op of lmoe's own
f32="--set train.dtype=f32 --plugin-path $helpers"
expect 0 "$lmoe" plan run.ini $f32 --set run.plugins="$helpers/$vendor-kernel.so" \
    --set ffn.kind=dense
for kernel in v0/soft v0/soft_grad v0/swiglu; do
    grep -q "$kernel" out || fail "the plan does not take $kernel"
done
train plain $f32 --set ffn.kind=dense
train kernels $f32 --set ffn.kind=dense --set run.plugins="$helpers/$vendor-kernel.so"
near plain expected
near kernels found
diff expected found >err || fail "the kernel gives other losses"
