# SPDX-License-Identifier: Apache-2.0
# tests/abi/target.awk: headers without what is newer than API 1.target, as -DLMOE_TARGET_API=target has
# them. Usage: awk -v target=N -f target.awk HEADER ...
/^#if LMOE_TARGET_API >= / && $4 + 0 > target + 0 { depth = 1; next }
depth > 0 && /^#if/ { depth++ }
depth > 0 && /^#endif/ { depth--; next }
depth == 0 { print }
