#!/bin/sh
# Form of the sources: clang-format, tabs, blanks at line ends, a newline at the end, letters outside ASCII.
set -eu
cd "$(dirname "$0")/.."
bad=0
if command -v git >/dev/null && git rev-parse --git-dir >/dev/null 2>&1; then
    files=$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')
else
    files=$(find core plugins sdk tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')
fi
say()
{
    echo "$1"
    bad=1
}
for f in $files; do
    grep -q "$(printf '\t')" "$f" && say "$f: a tab"
    grep -nE ' +$' "$f" && say "$f: blanks at a line's end"
    [ -z "$(tail -c 1 "$f")" ] || say "$f: no newline at the end"
    head -n 1 "$f" | grep -q SPDX || say "$f: no SPDX line at the top"
done
if command -v clang-format >/dev/null; then
    # shellcheck disable=SC2086
    clang-format --dry-run -Werror $(echo "$files" | grep -v '\.cuh*$') || bad=1
fi
exit $bad
