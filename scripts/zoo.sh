#!/bin/sh
# Trains every sequence layer as configs/runs/zoo.ini (Shakespeare) and configs/runs/mqar.ini (recall) say, and
# prints the table of docs/lsm.md. A layer takes about three minutes on two cores.
#   usage: scripts/zoo.sh [NAME...]      names of folders in plugins/lsm; none: all
#   LMOE=build/lmoe says which command, THREADS=1 how many threads; runs go to runs/zoo
set -eu
cd "$(dirname "$0")/.."
lmoe=${LMOE:-build/lmoe}
[ $# -gt 0 ] || set -- $(ls -d plugins/lsm/*/ | xargs -n 1 basename)

# options NAME: what differs from the defaults, as the model is small (embed 128)
options()
{
    case $1 in
    based | rebased) echo "heads=4" ;;
    bla) echo "feature_map=elu normalize=yes" ;;
    comba | gated_deltanet | delta_product | kda) echo "heads=2 head_dim=64 expand_v=1" ;;
    deltanet) echo "heads=2" ;;
    mla) echo "heads=4 kv_rank=32 nope_dim=32 rope_dim=16 v_dim=32" ;;
    mamba2) echo "state=64" ;;
    rwkv7) echo "decay_low_rank=16 gate_low_rank=16 a_low_rank=16" ;;
    *) ;;
    esac
}

# held_out LINE...: the loss that the end of a run tells
held_out()
{
    echo "$1" | sed -n 's/^best held-out loss \([0-9.]*\) nats.*/\1/p'
}

mkdir -p runs/text runs/zoo
if [ ! -f runs/text/mqar.idx ]; then
    "$lmoe" data prepare --task mqar --out runs/text/mqar-valid --documents 500 --seed 2 >&2
    "$lmoe" data prepare --task mqar --out runs/text/mqar --documents 100000 >&2
fi
echo "| layer | options | parameters | Shakespeare, nats a byte | recall, nats | right answers, at least |"
echo "| --- | --- | --- | --- | --- | --- |"
for name in "$@"; do
    sets="--set|layer L.class=lsm/$name${THREADS:+|--set|device.threads=$THREADS}"
    for o in $(options "$name"); do sets="$sets|--set|layer L.$o"; done
    rm -rf "runs/zoo/$name" "runs/zoo/$name-mqar"
    text=$(IFS='|' && "$lmoe" train configs/runs/zoo.ini $sets --set "run.dir=runs/zoo/$name" 2>&1) ||
        { echo "$name: $text" >&2 && continue; }
    recall=$(IFS='|' && "$lmoe" train configs/runs/mqar.ini $sets --set "run.dir=runs/zoo/$name-mqar" 2>&1) ||
        { echo "$name: $recall" >&2 && continue; }
    parameters=$(echo "$text" | sed -n 's/^\([0-9.]* [kM]\) parameters.*/\1/p')
    loss=$(held_out "$recall")
    right=$(echo "$loss" | awk '{ x = 100 * (1 - $1 / log(2)); printf(x > 0 ? "%.1f %%" : "", x) }')
    echo "| lsm/$name | $(options "$name") | $parameters | $(held_out "$text") | $loss | $right |"
done
