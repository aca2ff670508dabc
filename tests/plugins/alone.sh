#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/plugins/alone.sh: every plugin of this tree builds alone: its folder is copied out, and built
# with the installed SDK and its template, as a stranger's would be. What it needs beyond that is
# missed here. Usage: alone.sh SOURCE_ROOT BUILD_FOLDER LMOE [KIND/NAME ...]
set -eu
source=$1 build=$2 lmoe=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
meson install -C "$build" --no-rebuild --quiet --tags devel --destdir "$work/sdk" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
PKG_CONFIG_PATH=$(dirname "$(find "$work/sdk" -name lmoe-sdk.pc)")
export PKG_CONFIG_PATH
template=$(pkg-config --variable=template lmoe-sdk)

[ $# -gt 0 ] || set -- $(cd "$source/plugins" && ls -d */*/)
passed=0 failed=0 skipped=0
for plugin in "$@"; do
    plugin=${plugin%/}
    name=$(echo "$plugin" | tr / -)
    if [ ! -e "$build/plugins/$name.so" ]; then
        echo "$plugin: skipped, it is not built in the tree either"
        skipped=$((skipped + 1))
        continue
    fi
    here=$work/$name
    cp -r "$template/alone" "$here"
    cp -r "$source/plugins/$plugin" "$here/plugin"
    if (meson setup "$here/build" "$here" && meson compile -C "$here/build" &&
        "$lmoe" plugin list "$here/build/$name.so") >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        cat "$work/log"
        echo "$plugin: does not build, or load, alone"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
