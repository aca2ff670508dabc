#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/plugins.sh: plugin files that a run file names: whose kernels a run takes, which are forced,
# what is refused, and that nothing but a run file and the command line opens any.
. "$2/tests/run/lib.sh"

yes "the red wolf ran over a cold hill" | head -n 200 >text
mkdir mine
cp "$helpers/vendor.t-half_low.so" "$helpers/vendor.t-half_high.so" mine
cat >run.ini <<EOF2
[run]
save_every = 1
[model]
embed = 16
layers = 1
[layer L]
class = lsm/gla
heads = 1
[ffn]
kind = dense
hidden = 16
[data]
train = text
[train]
seq = 16
batch = 2
steps = 2
EOF2
# loss DIR ARGUMENT...: the loss of the first step
loss()
{
    name=$1
    shift
    expect 0 "$lmoe" train run.ini --set run.dir="$name" "$@"
    sed -n '1s/.*"train_loss":\([0-9.]*\).*/\1/p' "$name/metrics.jsonl"
}
plain=$(loss plain)
low="--set run.plugins=mine/vendor.t-half_low.so"
high="--set run.plugins=mine/vendor.t-half_high.so"

# the higher score is taken; the lower one only if it is forced
[ -n "$plain" ] || fail "there is no loss"
[ "$(loss low $low)" = "$plain" ] || fail "a kernel with a lower score is taken"
half=$(loss high $high)
[ "$half" != "$plain" ] || fail "a kernel with a higher score is not taken"
[ "$(loss forced $low --set "device.kernels=t/half low")" = "$half" ] || fail "a forced kernel is not taken"
# an op's name: its reference, which rounds otherwise, but is no half
reference=$(loss reference $high --set device.kernels=swiglu/1)
awk "BEGIN { d = $reference - $plain; exit !(d < 1e-4 && d > -1e-4) }" || fail "the reference is not taken"

expect 0 "$lmoe" plan run.ini $high
grep -q "1  swiglu/1 .* t/half high  of vendor.t/half_high" out || fail "lmoe plan does not show the kernel"
expect 0 "$lmoe" plan run.ini $low
grep -q "t/half" out && fail "lmoe plan shows a kernel that is not taken"
expect 0 "$lmoe" plan run.ini --explain --set device.kernels=swiglu/1
grep -q "1  swiglu/1  *(reference)" out || fail "lmoe plan does not show the reference"

# several files, in a run file of another folder, whose paths start there
mkdir runs
printf '[run]\ninclude = ../run.ini\nplugins = ../mine/vendor.t-half_low.so\n    ../mine/vendor.t-half_high.so\n' >runs/a.ini
expect 0 "$lmoe" plan runs/a.ini
grep -q "t/half high" out || fail "the second file is not opened"
expect 0 "$lmoe" config show runs/a.ini
grep -q "plugins = $work/mine/vendor.t-half_low.so" out || fail "the paths are not shown absolute"

# refused: with the place that names the file
refused()
{
    expression=$1
    shift
    expect 2 "$lmoe" plan run.ini "$@"
    says "$expression"
}
refused "^lmoe: --set: \[run\] plugins: nowhere.so: cannot be opened" --set run.plugins=nowhere.so
refused "\[run\] plugins: .*/text: is not a shared library" --set run.plugins=text
refused "\[run\] plugins: .*/mine: is not a regular file" --set run.plugins=mine
refused "neither device/cpu nor a plugin of this run has a kernel 't/half low'" --set "device.kernels=t/half low"
refused "has a kernel 't/half lo'; did you mean 't/half low'" $low --set "device.kernels=t/half lo"
chmod o+w mine/vendor.t-half_low.so
refused "the file can be written by every user" $low
chmod o-w mine/vendor.t-half_low.so
chmod o+w mine
refused "its folder can be written by every user" $low
chmod o-w mine
ln -s mine/vendor.t-half_high.so link.so
expect 0 "$lmoe" plan run.ini --set run.plugins=link.so
chmod o+w mine
refused "its folder can be written by every user" --set run.plugins=link.so
chmod o-w mine
# class names have no separators that lead elsewhere
for name in ../gla lsm/../gla /etc/gla lsm/gla/x lsm\\gla "lsm/gla.so:x"; do
    refused "is no name of a class" --set "layer L.class=$name"
done

# a checkpoint is data: what it says of plugins opens nothing
export LMOE_TOUCH=$work/touched
grep -q "$work/mine/vendor.t-half_high.so" high/checkpoints/step-2/manifest.json ||
    fail "the checkpoint names no plugin"
expect 0 "$lmoe" train run.ini --set run.dir=high --set train.steps=3
[ "$(wc -l <high/metrics.jsonl)" -eq 3 ] || fail "the run did not go on"
expect 0 "$lmoe" generate run.ini --set run.dir=high --tokens 2
[ ! -e touched ] || fail "a plugin that only a checkpoint names was opened"
expect 0 "$lmoe" generate run.ini --set run.dir=high --tokens 2 $high
[ -e touched ] || fail "a plugin that the command line names was not opened"
