#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/grown/newer.sh: plugins built with newer headers than the host's. Usage:
# newer.sh LMOE SOURCE_ROOT FOLDER_OF_THE_PLUGINS COMPILER GROWN_INCLUDE
. "$2/tests/run/lib.sh"
cc=$4 include=$5
minor=$(sed -n 's/^#define LMOE_API_MINOR \([0-9]*\)$/\1/p' "$2/sdk/include/lmoe/base.h")

expect 1 "$lmoe" plugin list "$helpers/vendor.t-needs.so"
cat out >err
says "needs API 1.$((minor + 1)); this host \(lmoe [0-9.]*\) offers 1.$minor: get a newer lmoe, or build the plugin with -DLMOE_TARGET_API=$minor"
expect 0 "$lmoe" plugin list "$helpers/vendor.t-for_older.so" "$helpers/vendor.t-optional.so"

# both run: the structs of one are longer than the host's
for class in vendor.t/for_older vendor.t/optional; do
    cat >run.ini <<EOF
[model]
embed = 16
layers = 1
[layer L]
class = $class
[ffn]
kind = none
EOF
    expect 0 "$lmoe" plan run.ini --plugin-path "$helpers"
    expect 2 "$lmoe" plan run.ini --plugin-path "$helpers" --set "layer L.class=vendor.t/needs"
    says "run.ini:|--set: \[layer L\] class: .*needs API 1.$((minor + 1))"
done

# what is newer than the target is not declared, and no target is newer than the headers
source=$2
try()
{
    $cc -fsyntax-only -Werror -I"$include" "-DNAME=\"vendor.t/x\"" "$@" "$source/tests/abi/grown/newer.c"
}
expect 0 try -DCALLS
expect 1 try -DCALLS -DLMOE_TARGET_API=$minor
says "lmoe_later"
expect 1 try -DLMOE_TARGET_API=$((minor + 2))
says "these headers are older than LMOE_TARGET_API"
