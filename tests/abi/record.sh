#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/abi/record.sh: writes the layout down. Usage: record.sh LAYOUT_PROGRAM FILE
"$1" >"$2"
