#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/grown/grow.sh: the public headers as the next minor API might have them: one more slot in the
# table, one more field in each struct that may grow. Usage: grow.sh HEADERS OUTPUT_FOLDER
set -eu
minor=$(sed -n 's/^#define LMOE_API_MINOR \([0-9]*\)$/\1/p' "$1/base.h")
next=$((minor + 1))
for header in "$1"/*; do
    sed -e "s/^#define LMOE_API_MINOR $minor\$/#define LMOE_API_MINOR $next/" \
        -e "s/^} \(lmoe_\(layer\|router\|op\|carry\|kernel\|device\|comm\|strategy\)\);/#if LMOE_TARGET_API >= $next\n    void (*later)(void);\n#endif\n&/" \
        "$header" >"$2/$(basename "$header")"
done
cat >>"$2/api.def" <<EOF
#if LMOE_TARGET_API >= $next
LMOE_API($next, int64_t, lmoe_later, (lmoe_trace *t), (t))
#endif
EOF
