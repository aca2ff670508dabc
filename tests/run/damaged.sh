#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/damaged.sh: of a damaged checkpoint a run says so and goes on from an older one; if all are
# damaged it says so, ends, and deletes nothing.
. "$2/tests/run/lib.sh"

documents 100 >tales
cat >run.ini <<EOF
[run]
dir          = whole
save_every   = 4
[model]
embed        = 32
layers       = 1
[layer L]
class        = lsm/gla
heads        = 2
[ffn]
kind         = dense
hidden       = 32
[data]
train        = tales
[train]
seq          = 32
batch        = 4
steps        = 8
EOF
expect 0 "$lmoe" train run.ini

# flip FILE PART: one bit of the byte at this tenth of the file
flip()
{
    at=$(($(wc -c <"$1") * $2 / 10))
    byte=$(od -An -tu1 -j $at -N 1 "$1")
    printf "\\$(printf %03o $((byte ^ 4)))" | dd of="$1" bs=1 seek=$at conv=notrunc 2>dd.err
}
cut_short()
{
    head -c $(($(wc -c <"$1") / 2)) "$1" >cut && mv cut "$1"
}

# damage HOW: of the checkpoint in the current folder
model=model-00001-of-00001.safetensors
optimizer=optimizer-00001-of-00001.safetensors
damage()
{
    case $1 in
    model-cut) cut_short $model ;;
    model-empty) : >$model ;;
    model-header) flip $model 0 ;;
    model-bit) flip $model 5 ;;
    optimizer-bit) flip $optimizer 9 ;;
    optimizer-gone) rm $optimizer ;;
    manifest-cut) cut_short manifest.json ;;
    manifest-bit) flip manifest.json 5 ;;
    manifest-gone) rm manifest.json ;;
    all-gone) rm ./* ;;
    esac
}

for how in model-cut model-empty model-header model-bit optimizer-bit optimizer-gone manifest-cut \
    manifest-bit manifest-gone all-gone; do
    rm -rf run && cp -r whole run
    (cd run/checkpoints/step-8 && damage $how)
    expect 0 "$lmoe" train run.ini --set run.dir=run
    says "^lmoe: warning: passing over step 8: .*run/checkpoints/step-8.*: .+"
    [ "$(wc -l <err)" -eq 1 ] || fail "$how: more than one sentence"
    grep -q "^going on after step 4$" out || fail "$how: does not go on from step 4"
    same_run whole run

    # who generates says so, too
    (cd run/checkpoints/step-8 && damage $how)
    expect 0 "$lmoe" generate run.ini --set run.dir=run --tokens 2
    says "passing over step 8"
done

for how in model-cut model-bit manifest-gone all-gone; do
    rm -rf run && cp -r whole run
    for step in 4 8; do
        (cd run/checkpoints/step-$step && damage $how)
    done
    rm -rf before && cp -r run before
    for command in train generate; do
        expect 2 "$lmoe" $command run.ini --set run.dir=run
        says "passing over step 8" "passing over step 4" \
            "^lmoe: none of the 2 checkpoints in .*run/checkpoints is whole: .*move them away to begin anew"
        diff -r before run >err || fail "$how: something is not as before"
    done
done
