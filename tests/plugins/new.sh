#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/plugins/new.sh: lmoe plugin new, for each kind: with the installed SDK the folder builds
# without a warning by Meson and by make, installs, trains; names that cannot be are refused.
# Usage: new.sh BUILD_FOLDER
set -eu
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export XDG_DATA_HOME="$work/data"
unset LMOE_PLUGIN_PATH

# quiet COMMAND...: what it says is only shown when it fails
quiet()
{
    "$@" >log 2>&1 || { cat log; echo "FAILED: $*"; exit 1; }
}

# refused PATTERN ARGUMENTS...: lmoe plugin new says so, and ends with code 2
refused()
{
    pattern=$1 code=0
    shift
    lmoe plugin new "$@" >log 2>&1 || code=$?
    [ $code -eq 2 ] && grep -q -- "$pattern" log ||
        { cat log; echo "FAILED: code $code, nothing like '$pattern': $*"; exit 1; }
}

quiet meson install -C "$build" --no-rebuild --quiet --destdir "$work/first"
mv first moved # an installation may be moved
prefix=$(dirname "$(dirname "$(find moved -path '*/bin/lmoe')")")
export PATH="$work/$prefix/bin:$PATH" PKG_CONFIG_PATH="$work/$prefix/share/pkgconfig"

for kind in lsm moe parallel comm op; do
    quiet lmoe plugin new --kind $kind my_$kind
    cd my_$kind
    quiet meson setup build -Dwerror=true
    quiet meson compile -C build
    quiet meson test -C build
    quiet make CFLAGS='-O2 -Wall -Wextra -Werror -Wno-unused-parameter'
    quiet lmoe plugin list vendor.me-my_$kind.so
    quiet meson install -C build --destdir "$work/placed"
    find "$work/placed" -name vendor.me-my_$kind.so | grep -q . || { echo "$kind: not installed"; exit 1; }
    ! grep -rn '@[A-Z]*@' --exclude-dir=build . || { echo "$kind: left"; exit 1; }
    [ -f .gitignore ] && [ -f .github/workflows/check.yml ]
    quiet lmoe train run.ini --plugin-path build --set train.steps=10 --set train.warmup=2
    cd ..
done
quiet lmoe plugin new --kind lsm --vendor acme --dir other gla
grep -q '"vendor.acme/gla"' other/gla.c
quiet lmoe plugin new --kind lsm --vendor org.acme gla
grep -q '"org.acme/gla"' gla/gla.c
refused 'exists already' --kind moe gla
refused 'cannot be the NAME' --kind lsm ../up
refused 'cannot be the NAME' --kind lsm a-b
refused 'cannot be the NAME' --kind lsm Upper
refused 'cannot be the vendor' --kind lsm --vendor a/b c
refused "did you mean 'moe'" --kind mo c
refused 'cannot make the folder' --kind lsm --dir none/such c
refused 'say of which --kind' c
refused 'NAME is missing' --kind lsm
[ ! -e c ] && [ ! -e none ]
