#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tests/plugins/examples.sh: each of sdk/examples builds out of the tree, with the installed SDK and
# warnings as errors, passes lmoe plugin check, and trains some steps; no file has more than 150 lines,
# and each has its page. Usage: examples.sh SOURCE_ROOT BUILD_FOLDER [EXAMPLE ...]
set -eu
source=$1 build=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset LMOE_PLUGIN_PATH

fail()
{
    [ ! -s log ] || tail -n 40 log
    echo "FAILED: $*"
    exit 1
}

# quiet COMMAND...: what it says is only shown when it fails
quiet()
{
    "$@" >log 2>&1 || fail "$*"
}

quiet meson install -C "$build" --no-rebuild --quiet --destdir "$work/sdk"
prefix=$(dirname "$(dirname "$(find "$work/sdk" -path '*/bin/lmoe')")")
export PATH="$prefix/bin:$PATH" PKG_CONFIG_PATH="$prefix/share/pkgconfig"

cat >run.ini <<'EOF'
[run]
dir = RUN
[model]
vocab_size = 256
embed = 32
layers = 2
pattern = L
[layer L]
class = lsm/retention
[ffn]
kind = moe
experts = 4
top_k = 2
hidden = 32
router = moe/qwen2
[data]
train = run.ini
[train]
seq = 64
batch = 4
steps = 20
lr = 5e-3
warmup = 2
EOF

[ $# -gt 0 ] || set -- $(cd "$source/sdk/examples" && ls -d [0-9]*)
for example in "$@"; do
    [ -s "$source/docs/sdk/$example.md" ] || fail "there is no docs/sdk/$example.md"
    for file in "$source/sdk/examples/$example"/*.c; do
        [ "$(wc -l <"$file")" -le 150 ] || fail "$file is longer than 150 lines"
    done
    cp -r "$prefix/share/lmoe/template/alone" "$example"
    cp -r "$source/sdk/examples/$example" "$example/plugin"
    quiet meson setup "$example/build" "$example" -Dwerror=true
    quiet meson compile -C "$example/build"
    file=$(ls "$example"/build/*.so)
    quiet lmoe plugin check "$file"
    checked=$(tail -n 1 log)
    class=$(basename "$file" .so | sed 's/-/\//')
    case $(lmoe plugin list "$file" | awk -v c="$class" '$1 == c { print $2 }') in
    layer) set_class="layer L.class=$class" ;;
    router) set_class="ffn.router=$class" ;;
    strategy) set_class="parallel.sp=$class" ;;
    communicator) set_class="parallel.comm=$class" ;;
    *) fail "$example: of no kind that a run file names" ;;
    esac
    mesh="parallel.mesh=sp:2" comm="parallel.comm=comm/loop"
    case $set_class in
    parallel.comm=*) comm=$set_class ;;
    esac
    sed "s/RUN/$example.run/" run.ini >"$example.ini"
    quiet lmoe train "$example.ini" --plugin-path "$example/build" --set "$set_class"
    quiet lmoe train "$example.ini" --plugin-path "$example/build" --set "$comm" --set "$mesh" \
        --set "$set_class" --set "run.dir=$example.two"
    for run in run two; do
        sed -n 's/.*"step":\([0-9]*\),.*"train_loss":\([0-9.]*\).*/\1 \2/p' "$example.$run/metrics.jsonl" >$run
    done
    paste run two | awk '
        NR == 1 { first = $2 }
        $1 != $3 || (NR <= 8 && ($2 - $4 > 1e-3 || $4 - $2 > 1e-3)) { print; exit 1 }
        { last = $2 }
        END { if (!(NR == 20 && last < first - 0.5)) { print NR " steps, loss " first " to " last; exit 1 } }' ||
        fail "$example: two ranks differ from one, or nothing is learned"
    echo "$example: $checked; trained on one rank and on two"
done
