#!/bin/sh
# Trains every sequence layer as configs/runs/zoo.ini (Shakespeare) and configs/runs/mqar.ini (recall) say, and
# prints the table of docs/lsm.md. Each of the two trainings is a process with one thread; a layer takes some minutes.
#   usage: scripts/zoo.sh [--table] [NAME...]     names of folders in plugins/lsm; none: all
#          scripts/zoo.sh --run recall:NAME|text:NAME     one training
#   --table only prints the table of what is there already
#   LMOE=build/lmoe   which command            JOBS=2       how many processes side by side
#   MINUTES=30        the most for one training; what it got to by then counts, and the table says at which step
#   ZOO=runs/zoo      where runs and their last words (NAME.text, NAME.recall) go
#   SETS="A=1 B=2"    more settings of both run files, such as train.steps=20
set -eu
cd "$(dirname "$0")/.."
export LMOE="${LMOE:-build/lmoe}" MINUTES="${MINUTES:-30}" ZOO="${ZOO:-runs/zoo}" SETS="${SETS:-}"

# options NAME: what differs from the defaults, as the model is small (embed 128)
options()
{
    case $1 in
    based | rebased) echo "heads=4 short_conv=yes" ;;
    bla) echo "short_conv=yes" ;;
    comba | gated_deltanet | kda) echo "heads=2 head_dim=64 expand_v=1" ;;
    delta_product) echo "heads=2 head_dim=64 expand_v=1 allow_neg_eigval=no" ;;
    deltanet) echo "heads=2" ;;
    log_linear) echo "state=64 levels=8" ;;
    mamba2) echo "state=64" ;;
    mla) echo "heads=4 kv_rank=32 nope_dim=32 rope_dim=16 v_dim=32" ;;
    mom) echo "heads=2 head_dim=32" ;;
    rwkv7) echo "decay_low_rank=16 gate_low_rank=16 a_low_rank=16" ;;
    *) ;;
    esac
}

# run KIND:NAME: one training; its output is in $ZOO/NAME.KIND
run()
{
    kind=${1%%:*} name=${1#*:} file=zoo
    [ "$kind" = text ] || file=mqar
    set -- --set "layer L.class=lsm/$name" --set device.threads=1 --set "run.minutes=$MINUTES"
    for o in $(options "$name"); do set -- "$@" --set "layer L.$o"; done
    for o in $SETS; do set -- "$@" --set "$o"; done
    rm -rf "$ZOO/run-$name-$kind"
    timeout "$(echo "$MINUTES" | awk '{ printf("%d", 60 * $1 + 60) }')" "$LMOE" train "configs/runs/$file.ini" "$@" \
        --set "run.dir=$ZOO/run-$name-$kind" >"$ZOO/$name.$kind" 2>&1 ||
        echo "$name, $kind: $(tail -n 1 "$ZOO/$name.$kind")" >&2
}

# said FILE EXPRESSION: what sed makes of the lines of a training's output
said()
{
    [ ! -f "$1" ] || tr '\r' '\n' <"$1" | sed -n "$2" | tail -n 1
}

# held_out FILE: the loss that its end tells, and the step if it is not the last one
held_out()
{
    loss=$(said "$1" 's/^best held-out loss \([0-9.]*\) nats.*/\1/p')
    done=$(said "$1" 's/^\([0-9]*\) steps in .*/\1/p')
    all=$(said "$1" 's/^step *[0-9]*\/\([0-9]*\) .*/\1/p')
    [ -z "$loss" ] || [ "$done" = "$all" ] || loss="$loss (step $done)"
    echo "$loss"
}

table()
{
    echo "| layer | options | parameters | Shakespeare, nats a byte | recall, nats | right answers, at least |"
    echo "| --- | --- | --- | --- | --- | --- |"
    for name in "$@"; do
        parameters=$(said "$ZOO/$name.text" 's/^\([0-9.]* [kM]\) parameters.*/\1/p')
        recall=$(held_out "$ZOO/$name.recall")
        right=$(echo "${recall:-9}" | awk '{ x = 100 * (1 - $1 / log(2)); printf(x > 0 ? "%.1f %%" : "", x) }')
        # shellcheck disable=SC2016
        echo "| lsm/$name | $(options "$name" | sed 's/..*/`&`/') | $parameters | $(held_out "$ZOO/$name.text") |" \
            "$recall | $right |"
    done
}

case ${1:-} in
--run) run "$2" && exit 0 ;;
--table) shift && only_table=yes ;;
esac
# shellcheck disable=SC2046,SC2011
[ $# -gt 0 ] || set -- $(ls -d plugins/lsm/*/ | xargs -n 1 basename)
mkdir -p runs/text "$ZOO"
if [ ! -f runs/text/mqar.idx ]; then
    "$LMOE" data prepare --task mqar --out runs/text/mqar-valid --documents 500 --seed 2 >&2
    "$LMOE" data prepare --task mqar --out runs/text/mqar --documents 100000 >&2
fi
[ "${only_table:-}" ] ||
    for name in "$@"; do echo "recall:$name" "text:$name"; done | xargs -P "${JOBS:-2}" -n 1 scripts/zoo.sh --run
table "$@"
