#!/bin/sh
# Installs the Debian packages of a purpose (build, text, test) that are missing. Needs root only if something is.
#   usage: scripts/packages.sh build text test
set -eu

packages_of()
{
    case $1 in
    build) echo gcc libc6-dev meson ninja-build pkgconf libinih-dev libjansson-dev libxxhash-dev libdnnl-dev ;;
    text) echo bible-kjv bible-kjv-text ;;
    test) echo check libopenmpi-dev openmpi-bin clang g++ clang-format libclang-rt-14-dev ;;
    *) echo "scripts/packages.sh: there is no purpose '$1'; build, text and test are" >&2; exit 2 ;;
    esac
}

missing=
for purpose in "$@"; do
    for package in $(packages_of "$purpose"); do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
            missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "These Debian packages are missing; install them as root and repeat:" >&2
    echo "  apt-get install$missing" >&2
    exit 2
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
