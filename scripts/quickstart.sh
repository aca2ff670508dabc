#!/bin/sh
# From nothing to a trained model that writes: packages, build, text, training (five minutes), a continuation.
# Repeating it goes on with the training where it stopped.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh build text
scripts/build.sh
if [ ! -s runs/text/kjv.txt ]; then
    mkdir -p runs/text
    bible -f -l 2000 'gen1:1-rev22:21' >runs/text/kjv.tmp
    mv runs/text/kjv.tmp runs/text/kjv.txt
fi
build/lmoe train configs/runs/kjv.ini "$@"
echo
build/lmoe generate configs/runs/kjv.ini --prompt "Ge1:1 In the beginning" --tokens 400
