#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/allocations.sh: a step allocates nothing. A run of 10 steps and one of 20 call malloc and
# its sisters equally often from each place in lmoe and its plugins. What libraries do is theirs.
. "$2/tests/run/lib.sh"

documents 200 >tales.jsonl
expect 0 "$lmoe" data prepare --in tales.jsonl --out tales
cat >run.ini <<EOF
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
train        = tales.bin
packed       = yes
[train]
seq          = 32
batch        = 8
accumulate   = 2
EOF
# count STEPS FILE OPTION...: places in lmoe and plugins, and how often each has allocated
count()
{
    steps=$1 file=$2
    shift 2
    expect 0 env LD_PRELOAD="$helpers/libcount_allocations.so" ALLOCATIONS="$file.all" \
        "$lmoe" train run.ini --set run.dir="run-$file" --set train.steps="$steps" "$@"
    grep -E "^([^ ]*/)?(lmoe|[a-z]*-[a-z0-9_]*\.so) " "$file.all" | sort >"$file"
    grep -q "lmoe " "$file" || fail "nothing was counted"
}
same()
{
    count 10 ten "$@"
    count 20 twenty "$@"
    diff ten twenty >err || fail "allocates in steps 11 to 20 ($*)"
    rm -r run-ten run-twenty
}
same
same --set parallel.comm=comm/loop --set "parallel.mesh=dp:2 sp:2" --set "layer L.short_conv=no"
same --set model.pattern=NL --set ffn.kind=dense --set data.packed=no --set train.accumulate=1
same --set ffn.experts=1500 --set ffn.hidden=4
