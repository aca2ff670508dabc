#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/bad_input.sh: what cannot be is refused in one sentence that names the place and says what
# would do, with exit code 2, and whatever the run's folder held is as before.
. "$2/tests/run/lib.sh"
zoo=$helpers/../bad/loader

# ---- a run that is fine, and has got somewhere ----

documents 60 >tales
expect 0 "$lmoe" data prepare --in tales --format jsonl --out pair
mkdir plugins more
cat >run.ini <<EOF
[run]
dir          = run
seed         = 1
[model]
vocab_size   = 256
embed        = 32
layers       = 2
pattern      = LN
[layer L]
class        = lsm/gla
heads        = 2
[layer N]
class        = lsm/attention
heads        = 2
[ffn]
experts      = 4
hidden       = 32
[data]
train        = tales
valid        = 20 %
[train]
seq          = 32
batch        = 8
steps        = 4
[parallel]
comm         = comm/loop
EOF
# line NAME [N]: where the N-th key, or section, of that name stands
line()
{
    grep -n "^$1\( .*\)\{0,1\}\$" run.ini | sed -n "${2-1}s/:.*//p"
}
expect 0 "$lmoe" train run.ini
cp -r run before

# ---- the rows of the table ----

rows=0
# refused PATTERN... -- COMMAND...: exit code 2, one line, like each pattern; the run is as before
refused()
{
    patterns=""
    while [ "$1" != -- ]; do
        patterns="$patterns$1
"
        shift
    done
    shift
    expect 2 "$@"
    [ "$(wc -l <err)" -eq 1 ] || fail "not one line: $*"
    says "^lmoe[a-z ]*: [^ ].{20,}"
    printf %s "$patterns" >patterns
    while read -r pattern; do
        says "$pattern"
    done <patterns
    diff -r before run >out || fail "something is not as before: $*"
    rows=$((rows + 1))
}

# with KEY VALUE [N]: the run file with another value (of the N-th key of that name), as bad.ini
with()
{
    awk -v at="$(line "$1" "${3-1}")" -v key="$1" -v value="$2" \
        'NR == at { print key " = " value; next } { print }' run.ini >bad.ini
}
train() # what follows are arguments
{
    "$lmoe" train "$@"
}
copy_pair()
{
    rm -f copy.*
    cp pair.bin copy.bin
    cp pair.idx copy.idx
}
# overwrite FILE OFFSET BYTES
overwrite()
{
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>dd.err
}

# ---- run files ----

sed 's/^batch /batsh /' run.ini >bad.ini
refused "^lmoe: bad.ini:$(line batch): unknown key 'batsh' in \[train\]; did you mean 'batch'\?" -- \
    train bad.ini
sed 's/^\[train\]/[trane]/' run.ini >bad.ini
refused "bad.ini:[0-9]+: nothing in this run uses section \[trane\]; did you mean \[train\]\?" -- \
    train bad.ini
sed "$(line heads)s/.*/heads = 2\nqk_norm = yes/" run.ini >bad.ini
refused "bad.ini:[0-9]+: unknown key 'qk_norm' in \[layer L\]; it belongs in \[layer N\]" -- \
    train bad.ini
with seq many
refused "bad.ini:$(line seq): \[train\] seq = many: expected a whole number from 1" -- train bad.ini
with batch -8
refused "bad.ini:$(line batch): \[train\] batch = -8: expected a whole number from 1" -- train bad.ini
with heads 2.5
refused "bad.ini:$(line heads): \[layer L\] heads = 2.5: expected a whole number" -- train bad.ini
refused "^lmoe: --set: \[train\] lr = nan: expected a number from 0 to 100" -- \
    train run.ini --set train.lr=nan
refused "--set: \[train\] schedule = line: expected one of cosine, wsd, constant" -- \
    train run.ini --set train.schedule=line
refused "cannot read nowhere.ini: No such file" -- train nowhere.ini
refused "lmoe train: it needs a run file" -- train
refused "lmoe train: unexpected '--plugin_path'; did you mean '--plugin-path'\?" -- train --plugin_path
sed '/^embed/d' run.ini >bad.ini
refused "bad.ini:$(line '\[model\]'): \[model\] needs 'embed'" -- train bad.ini
head -c 100 /dev/zero >bad.ini
refused "bad.ini:1: .*NUL" -- train bad.ini
echo '[run' >bad.ini
refused "bad.ini:1: the section's ']' is missing" -- train bad.ini

# ---- models ----

with heads 3
refused "lsm/gla, gla.c:[0-9]+, layer 0: heads = 3 must divide the keys' width 16" -- train bad.ini
with heads 5 2
refused "lsm/attention, attention.c:[0-9]+, layer 1: embed 32 over heads = 5 .*set head_dim" -- \
    train bad.ini
with pattern LX
refused "bad.ini: there is no section \[layer X\]; it is needed for 'class'" -- train bad.ini
with pattern lL
refused "\[model\] pattern = lL: 'l' is no letter A to Z" -- train bad.ini
refused "\[model\] pattern is empty; write letters such as LLLN" -- train run.ini --set model.pattern=
refused "\[ffn\] top_k = 9 is more than experts = 4" -- train run.ini --set ffn.top_k=9
sed '/^hidden/d' run.ini >bad.ini
refused "\[ffn\].*hidden" -- train bad.ini

# ---- classes ----

with class moe/qwen2
refused "bad.ini:$(line class): \[layer L\] class: class 'moe/qwen2' is a router; a layer is needed" -- \
    train bad.ini
with class lsm/glaa
refused "bad.ini:$(line class): \[layer L\] class: there is no class 'lsm/glaa'; did you mean 'lsm/gla'\?" -- \
    train bad.ini
with class vendor.x/none
refused "there is no class 'vendor.x/none'.*no vendor.x-none.so in .*(--plugin-path)" -- \
    train bad.ini --plugin-path plugins
with class ../../tmp/evil
refused "'../../tmp/evil' is no name of a class; one is like" -- train bad.ini
refused "\[ffn\] router: class 'lsm/gla' is a layer; a router is needed" -- \
    train run.ini --set ffn.router=lsm/gla
refused "\[device\] class: class 'comm/loop' is a communicator; a device is needed" -- \
    train run.ini --set device.class=comm/loop
refused "\[parallel\] dp: class 'lsm/gla' is a layer; a strategy is needed" -- \
    train run.ini --set parallel.mesh=dp:2 --set parallel.dp=lsm/gla

echo "no program" >plugins/vendor.t-text.so
cp "$zoo/vendor.t-abi_symbol.so" "$zoo/vendor.t-abi_major.so" "$zoo/vendor.t-good.so" plugins
cp "$zoo/vendor.t-good.so" more
with class vendor.t/text
refused "\[layer L\] class: .*vendor.t-text.so: is not a shared library \(it has no ELF header\)" -- \
    train bad.ini --plugin-path plugins
head -c 3000 "$zoo/vendor.t-good.so" >plugins/vendor.t-cut.so
with class vendor.t/cut
refused "\[layer L\] class: .*vendor.t-cut.so: is cut off: it has 3000 bytes.*copy or build it again" -- train bad.ini --plugin-path plugins
with class vendor.t/abi_symbol
refused "vendor.t-abi_symbol.so: is built for ABI 2; this host speaks 1: get the plugin for lmoe" -- \
    train bad.ini --plugin-path plugins
with class vendor.t/abi_major
refused "vendor.t-abi_major.so: .*ABI 2; this host speaks 1: build it again" -- \
    train bad.ini --plugin-path plugins
with class vendor.t/good
refused "class 'vendor.t/good' is offered twice .*plugins/vendor.t-good.so and .*more/vendor.t-good.so; remove one" \
    -- train bad.ini --plugin-path plugins:more

# ---- texts and token files ----

: >empty
head -c 20 tales >short
with train nowhere
refused "bad.ini:$(line '\[data\]'): \[data\]: there is no token file nowhere" -- train bad.ini
with train ""
refused "bad.ini:$(line train): \[data\] train is empty; name a text" -- train bad.ini
with train empty
refused "\[data\] valid = 20 %: of the 0 tokens of empty" -- train bad.ini
refused "empty has 0 tokens to train on; a row of seq = 32 needs 33" -- train bad.ini --set data.valid=
with train short
refused "short has 16 tokens to train on; a row of seq = 32 needs 33: take a longer text" -- \
    train bad.ini
refused "empty holds 0 tokens; a prediction needs 2" -- train run.ini --set data.valid=empty
refused "\[data\] valid = 100 %: expected a share above 0 % and below 100 %" -- \
    train run.ini --set "data.valid=100 %"
with train copy.bin
copy_pair
head -c 1000 pair.bin >copy.bin
refused "\[data\]: copy.idx: sequence [0-9]+ ends at byte [0-9]+, but copy.bin has only 1000 bytes" \
    "copy both files again" -- train bad.ini
copy_pair
overwrite copy.idx 0 X
refused "copy.idx: it does not begin with MMIDIDX" -- train bad.ini
copy_pair
overwrite copy.idx 9 '\2'
refused "copy.idx: the version is 2; expected 1" -- train bad.ini
copy_pair
overwrite copy.idx 20 '\1'
refused "copy.idx: it counts [0-9]+ sequences, more than its [0-9]+ bytes can hold" -- train bad.ini
copy_pair
overwrite copy.idx 25 '\200'
refused "copy.idx: it counts [0-9]+ sequences, more than" -- train bad.ini
copy_pair # lengths of 60 sequences stand before their offsets
overwrite copy.idx $((34 + 60 * 4 + 8 * 5 + 1)) '\377'
refused "copy.idx: the offset of sequence 5 is [0-9]+; expected [0-9]+" -- train bad.ini
copy_pair
head -c 500 pair.idx >copy.idx
refused "copy.idx: it counts 60 sequences, more than its 500 bytes" -- train bad.ini
rm copy.idx
refused "\[data\]: there is no copy.idx; tokens are read from a pair of files" -- train bad.ini
refused "tales: token [0-9]+ \(in document 0\) is [0-9]+; expected 0 to 99: .*set vocab_size" -- \
    train run.ini --set run.dir=fresh --set model.vocab_size=100
copy_pair
overwrite copy.bin 3000 '\0\1'
refused "copy.bin: token 1500 .*expected 0 to 255" -- \
    train bad.ini --set run.dir=fresh --set train.steps=100 --set data.valid=

# ---- layouts ----

refused "--set: \[train\] batch = 8 is not a multiple of accumulate = 3" -- \
    train run.ini --set train.accumulate=3
refused "mesh axis 'dp' \(parallel/dp\): batch 8 of 'in:tokens' is not a multiple of the 3 ranks" -- \
    train run.ini --set parallel.mesh=dp:3
refused "mesh axis 'dp' \(parallel/dp\): batch 4 of 'in:tokens' is not a multiple of the 8 ranks" -- \
    train run.ini --set parallel.mesh=dp:8 --set train.accumulate=2
refused "mesh axis 'sp' \(parallel/lasp2\): seq 32 of 'in:tokens' is not a multiple of the 3 ranks" -- \
    train run.ini --set parallel.mesh=sp:3
refused "\[parallel\] mesh: there is no axis 'xp'; axes are dp, sp" -- \
    train run.ini --set parallel.mesh=xp:2
refused "\[parallel\] mesh: 'dp:0' is not an axis and its size, such as dp:2" -- \
    train run.ini --set parallel.mesh=dp:0
refused "\[parallel\] mesh: 'dp:2,sp:2' is not an axis" -- train run.ini --set parallel.mesh=dp:2,sp:2
refused "\[parallel\] mesh: the axis 'dp' stands twice" -- \
    train run.ini --set "parallel.mesh=dp:2 dp:2"
refused "the mesh has 2 ranks, but comm/self has one; use comm = comm/loop" -- \
    train run.ini --set parallel.mesh=dp:2 --set parallel.comm=comm/self

# ---- going on with another model ----

refused "run/checkpoints/step-4 was made with \[run\] seed = 1, this run says 7; set the seed back" -- \
    train run.ini --set run.seed=7
refused "step-4: tensor \"model.embeddings.weight\" is F32 \(256 32\); the model's is F32 \(256 48\)" -- \
    train run.ini --set model.embed=48
refused "step-4: tensor \"[a-z0-9._:]*\" is F32 .*; the model's is F64" -- \
    train run.ini --set train.dtype=f64
refused "step-4 has no tensor \"model.layers.2.attn_norm.weight\".*it is of another model" -- \
    train run.ini --set model.layers=3
refused "step-4 has a tensor \"[a-z0-9._:]*\", which the model has not" -- \
    train run.ini --set model.layers=1

# ---- generating ----

generate()
{
    "$lmoe" generate run.ini "$@"
}
refused "there is no checkpoint in 'none/checkpoints'; train first" -- generate --set run.dir=none
refused "\[model\] vocab_size = 255: text needs the 256 byte tokens" -- \
    generate --set model.vocab_size=255
refused "step-4: tensor .*the model's is F32 \(256 48\)" -- generate --set model.embed=48
refused "temperature = hot: expected a number" -- generate --temperature hot
refused "--prompt is empty; give at least one letter" -- generate --prompt ""
refused "unexpected '--promt'; did you mean '--prompt'\?" -- generate --promt x
refused "'tales' is not a generation state of this model and context" -- generate --load_state tales
refused "cannot read nowhere" -- generate --load_state nowhere
refused "there is no command 'trian'; did you mean 'train'\?" -- "$lmoe" trian run.ini

echo "$rows refusals"
[ $rows -gt 60 ]
