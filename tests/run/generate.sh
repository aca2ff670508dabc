#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/generate.sh: a text is a function of checkpoint, prompt and seed: however the prompt is cut,
# whether it is interrupted and taken up from a file, and alone or among copies. A model without
# softmax attention keeps a state of one size.
. "$2/tests/run/lib.sh"

documents 100 >tales
cat >run.ini <<EOF
[run]
dir          = hybrid
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
[train]
seq          = 32
batch        = 8
steps        = 30
lr           = 1e-2
EOF
sed -e 's/hybrid/linear/' -e 's/= LN/= L/' -e '/layer N/,/heads/d' run.ini >linear.ini
expect 0 "$lmoe" train run.ini
expect 0 "$lmoe" train linear.ini
# float64 on the references: the order of sums that a chunk makes decides no choice
expect 0 "$lmoe" train run.ini --set run.dir=exact --set train.dtype=f64 --set train.steps=3
exact="--set run.dir=exact --set train.dtype=f64"

# text FILE ARGUMENT...: what is generated goes to FILE
text()
{
    file=$1
    shift
    expect 0 "$lmoe" generate "$@"
    mv out "$file"
    [ -s "$file" ] || fail "nothing is generated: $*"
}
same()
{
    cmp "$1" "$2" >err || fail "the texts $1 and $2 differ"
}
differ()
{
    ! cmp -s "$1" "$2" || fail "the texts $1 and $2 are the same"
}

for ini in run.ini linear.ini; do
    text a $ini --prompt "tale 5" --tokens 60 --seed 3
    text b $ini --prompt "tale 5" --tokens 60 --seed 3
    same a b
    [ "$(wc -c <a)" -eq 67 ] || fail "not 6 bytes of prompt, 60 of text, and a line feed"
    [ "$(head -c 6 a)" = "tale 5" ] || fail "the prompt does not come first"
    text b $ini --prompt "tale 5" --tokens 60 --seed 4
    differ a b
    # the likeliest token, whatever the seed; as is the one of the likeliest
    text c $ini --prompt "tale 5" --tokens 60 --seed 3 --temperature 0
    text d $ini --prompt "tale 5" --tokens 60 --seed 9 --temperature 0
    same c d
    text d $ini --prompt "tale 5" --tokens 60 --seed 9 --top_k 1 --temperature 5
    same c d
    differ a c
    # copies: number i is what seed + i gives alone
    text three $ini --prompt "tale 5" --tokens 60 --seed 2 --copies 3
    text two $ini --prompt "tale 5" --tokens 60 --seed 2
    cat two a b >separate
    same separate three
done
text a run.ini --prompt "tale 5" --tokens 60 --temperature 0
differ a c # the models are not the same

# a prompt in chunks
prompt="tale 7: the red wolf ran over a cold hill and back home again"
text whole run.ini $exact --prompt "$prompt" --tokens 40 --chunk 1
for chunk in 2 7 60 61 64 1000; do
    text cut run.ini $exact --prompt "$prompt" --tokens 40 --chunk $chunk
    same whole cut
done

# interrupted after the first part of the prompt, or after all of it
for ini in run.ini linear.ini; do
    arguments="$ini --context 128 --seed 5"
    [ $ini = linear.ini ] || arguments="$arguments $exact"
    text whole $arguments --prompt "tale 7: the red wolf" --tokens 40
    text first $arguments --prompt "tale 7:" --tokens 1 --save_state state
    text rest $arguments --load_state state --prompt " the red wolf" --tokens 40
    { printf %s "tale 7: the red wolf"; cat rest; } >joined
    [ $ini = linear.ini ] || same whole joined
    cp state before
    text first $arguments --prompt "tale 7: the red wolf" --tokens 1 --save_state state
    text rest $arguments --load_state state --prompt "" --tokens 40
    { printf %s "tale 7: the red wolf"; cat rest; } >joined
    same whole joined
    text again $arguments --load_state state --prompt "" --tokens 40 --copies 2
    head -n "$(wc -l <rest)" again >one
    same rest one
done
# the state of another model, or of another context, is refused
for arguments in "run.ini $exact --context 128" "linear.ini --set model.vocab_size=257"; do
    expect 2 "$lmoe" generate $arguments --load_state state --prompt x
done

# state_bytes INI CONTEXT LENGTH: after a prompt of so many bytes
state_bytes()
{
    expect 0 "$lmoe" generate "$1" --prompt "$(head -c "$3" tales)" --context "$2" --tokens 3 --stats yes
    sed -n 's/.*, state \([0-9]*\) bytes.*/\1/p' err
}
size=$(state_bytes linear.ini 8 8)
[ "$size" -gt 4000 ] || fail "the size of the state is not told"
for context in 16 1000 100000; do
    for length in 1 64 3000; do
        [ "$(state_bytes linear.ini $context $length)" -eq "$size" ] ||
            fail "the state grows with the context or the prompt"
    done
done
[ "$(state_bytes run.ini 1000 64)" -gt "$(state_bytes run.ini 100 64)" ] ||
    fail "attention keeps as much of 1000 tokens as of 100"
# attention forgets what is further back than the context, and goes on
[ "$(state_bytes run.ini 100 3000)" -eq "$(state_bytes run.ini 100 64)" ] ||
    fail "the state of attention grows beyond its context"
