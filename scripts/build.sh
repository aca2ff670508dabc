#!/bin/sh
# Builds lmoe into build/ (release), or brings it up to date.
#   usage: scripts/build.sh [meson options]
set -eu
cd "$(dirname "$0")/.."
[ -f build/build.ninja ] || meson setup build --buildtype=release "$@" >build-setup.log 2>&1 || {
    cat build-setup.log >&2
    exit 1
}
rm -f build-setup.log
ninja -C build
