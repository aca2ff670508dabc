#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/headers.sh: each public header compiles alone, pedantically, as C11 and as C++17.
# Usage: headers.sh INCLUDE_FOLDER
set -u
tried=0 failed=0
for header in "$1"/lmoe/*.h; do
    name=lmoe/$(basename "$header")
    for how in "gcc c11" "clang c11" "g++ c++17" "clang++ c++17"; do
        compiler=${how% *} standard=${how#* }
        command -v "$compiler" >/dev/null || continue
        case $standard in c11) language=c ;; *) language=c++ ;; esac
        tried=$((tried + 1))
        if ! echo "#include <$name>" | "$compiler" -x $language -std="$standard" -pedantic -Wall \
            -Wextra -Werror -fsyntax-only -I"$1" -; then
            echo "$name does not compile alone: $compiler -std=$standard"
            failed=$((failed + 1))
        fi
    done
done
echo "$((tried - failed)) passed, $failed failed"
[ $tried -gt 0 ] && [ $failed -eq 0 ]
