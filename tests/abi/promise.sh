#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/promise.sh: what the headers of an older API say is still true of today's. Usage:
# promise.sh LAYOUT_OF_THEN LAYOUT_OF_NOW MINOR_OF_THEN
set -eu
record=$(mktemp)
trap 'rm -f "$record"' EXIT
"$1" >"$record" || exit $?
"$2" --promise "$record" "$3"
