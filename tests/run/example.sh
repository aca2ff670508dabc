#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/run/example.sh: a layer that knows nothing of ranks, built outside of the tree against the
# installed SDK, trains at every layout as on one rank.
# Usage: example.sh SOURCE_ROOT BUILD_FOLDER MATRIX
set -eu
source=$1 build=$2 matrix=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
meson install -C "$build" --no-rebuild --quiet --tags devel --destdir "$work/sdk" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
PKG_CONFIG_PATH=$(dirname "$(find "$work/sdk" -name lmoe-sdk.pc)")
export PKG_CONFIG_PATH
cp -r "$(pkg-config --variable=template lmoe-sdk)/alone" "$work/hello"
cp -r "$source/sdk/examples/01-hello" "$work/hello/plugin"
(meson setup "$work/hello/build" "$work/hello" && meson compile -C "$work/hello/build") \
    >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
LMOE_PLUGIN_PATH="$work/hello/build:$build/plugins" "$matrix" --class vendor.example/decay
