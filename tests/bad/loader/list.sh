#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/bad/loader/list.sh: lmoe plugin list survives whatever plugins do while they are loaded, and says
# of each file what it offers, or why not. Usage: list.sh LMOE SOURCE_ROOT FOLDER_OF_THE_ZOO
. "$2/tests/run/lib.sh"

mkdir a b c
cp "$helpers"/vendor.t-*.so a
cp a/vendor.t-good.so a/vendor.t-print.so b
cp a/vendor.t-good.so a/vendor.t-longer.so c
: >c/vendor.t-empty.so
LMOE_PLUGIN_PATH=$work/c expect 1 timeout 100 "$lmoe" plugin list --plugin-path "$work/a:$work/b"

# line EXPRESSION: the list has it
line()
{
    grep -qE -e "$1" out || fail "the list has no line '$1'"
}
line "^$work/a \(--plugin-path\)$"
line "^  vendor.t/good +layer +vendor.t-good.so +Gives its input back.$"
line "^  vendor.t/longer +layer "
line "^  vendor.t-crash.so +refused: crashes while it is loaded: Aborted$"
line "^  vendor.t-early_crash.so +refused: crashes while it is loaded: Segmentation fault$"
line "^  vendor.t-leave.so +refused: ends the process while it is loaded, with exit code 7"
line "^  vendor.t-early_leave.so +refused: ends the process while it is loaded, with exit code 0"
line "^  vendor.t-early_shut.so +refused: closes the host's files while it is loaded"
line "^  vendor.t-hang.so +refused: hangs: "
line "^  vendor.t-early_hang.so +refused: hangs: "
line "^  vendor.t-fork.so +refused: starts a process while it is loaded, which a plugin must not$"
line "^  vendor.t-daemon.so +refused: starts a process while it is loaded, which a plugin must not$"
line "^  vendor.t/print +layer "
line "^  vendor.t-print.so +warning: prints while it is loaded.*\"hello from a plugin\"$"
line "^  vendor.t-class_name.so +refused: class name 'vendor.t/../class_name'"
if [ -e a/vendor.t-throws.so ]; then
    line "^  vendor.t-throws.so +refused: crashes while it is loaded: Aborted$"
fi
# the same file in two folders of one rank, and in one of a later rank
line "^  vendor.t-good.so +refused: the same file is in a folder of the same rank: $work/a/vendor.t-good.so"
line "^  vendor.t-longer.so +shadowed by $work/a/vendor.t-longer.so$"
line "^  vendor.t-empty.so +refused: is not a shared library"
line "^$work/c \(LMOE_PLUGIN_PATH\)$"
# every file of the first folder has a line, and nothing that they started is left
for f in a/*.so; do
    line "$(basename "$f")"
done
left=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\0" " " | grep -c -e "[p]lugin list --plugin-path $work/a" || true)
[ "$left" -eq 0 ] || fail "a process is left behind"
