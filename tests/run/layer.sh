#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/layer.sh: lmoe layer run refuses what is wrong with a sentence, survives damaged files, and
# takes its own output as input. That what it computes is right is for tests/oracle to say.
. "$2/tests/run/lib.sh"

in=$2/tests/oracle/data/gla_97.safetensors
sets="--set heads=3 --set expand_k=0.5 --set low_rank=5"

run()
{
    "$lmoe" layer run "$@"
}
# refused EXPRESSION ARGUMENT...: exit code 2, one sentence that matches, and no output file
refused()
{
    expression=$1
    shift
    rm -f out.st
    expect 2 run "$@"
    grep -qE -e "$expression" err || fail "the sentence does not say '$expression': $*"
    [ ! -e out.st ] || fail "an output file was written: $*"
}

expect 0 run lsm/gla --in "$in" --out out.st $sets
[ -s out.st ] && [ "$(ls | grep -c tmp)" -eq 0 ] || fail "no output, or something beside it"
expect 0 run lsm/gla --in "$in" --out again.st $sets
cmp out.st again.st || fail "two runs differ"

refused "it needs a class, --in and --out" lsm/gla --in "$in"
refused "there is no class 'lsm/gal'; did you mean 'lsm/gla'" lsm/gal --in "$in" --out out.st
refused "class 'device/cpu' is a device; a layer is needed" device/cpu --in "$in" --out out.st
refused "unexpected '--resets'; did you mean '--reset'" lsm/gla --in "$in" --out out.st --resets 3
refused "cannot read nowhere" lsm/gla --in nowhere --out out.st
refused "not in the safetensors format" lsm/gla --in "$2/LICENSE" --out out.st
refused "lsm/gla has no parameter \"gk_proj.0.weight\"|no parameter \"g" lsm/retention --in "$in" --out out.st \
    --set heads=3 --set expand_v=1
refused "\"w:gk_proj.0.weight\" is \(24 5\); expected \(24 4\)" lsm/gla --in "$in" --out out.st $sets --set low_rank=4
refused "has no tensor \"w:q_conv1d.weight\".*--init SEED.*w:q_conv1d.weight \(3 4 4\)" lsm/gla --in "$in" \
    --out out.st $sets --set short_conv=yes
refused "heads = 5 must divide" lsm/gla --in "$in" --out out.st --set heads=5
refused "unknown key 'head'; did you mean 'heads'|unknown key 'head'" lsm/gla --in "$in" --out out.st --set head=3
refused "embed is that of \"x\"" lsm/gla --in "$in" --out out.st $sets --set model.embed=48
refused "--dtype bf16: expected f32 or f64" lsm/gla --in "$in" --out out.st $sets --dtype bf16
refused "--chunks 4,0: expected whole numbers from 1" lsm/gla --in "$in" --out out.st $sets --chunks 4,0
refused "--decode 98: \"x\" has 97 tokens" lsm/gla --in "$in" --out out.st $sets --decode 98
refused "--reset 9,5: expected .* each more than the one before" lsm/gla --in "$in" --out out.st $sets --reset 9,5
refused "--layers 3: the model has 2" lsm/gla --in "$in" --out out.st $sets --layers 3 --set model.layers=2
refused "\[ffn\] hidden must be given" moe/qwen2 --in "$in" --out out.st --init 1

# what --init made is written, and gives the same when it is read
cp "$2/tests/oracle/data/attention_64.safetensors" x.st
expect 0 run lsm/attention --in x.st --out all.st --set heads=2 --chunks 7 --decode 5
expect 1 run lsm/attention --in x.st --out nowhere/out.st --set heads=2
grep -q "cannot write nowhere/out.st" err || fail "the sentence does not name the file"

# damaged files: cut, or a byte changed in the header
size=$(wc -c <"$in")
for n in 0 7 8 9 100 1000 $((size / 2)) $((size - 1)); do
    head -c $n "$in" >cut.st
    refused "cut.st" lsm/gla --in cut.st --out out.st $sets
done
for at in 3 8 9 30 60 200 400 700; do
    cp "$in" changed.st
    printf '\377' | dd of=changed.st bs=1 seek=$at conv=notrunc 2>dd
    got=0
    run lsm/gla --in changed.st --out out.st $sets >out 2>err || got=$?
    [ $got -eq 0 ] || [ $got -eq 2 ] || fail "exit code $got for a changed byte at $at"
done
