#!/bin/sh
# Installs what the tests need and runs them. The last line is "N passed, N failed".
#   usage: scripts/test.sh [--long]      --long: also all layouts, sanitizers, clang, static plugins, CUDA, the quick start
set -eu
cd "$(dirname "$0")/.."
long=no
[ "${1:-}" != --long ] || long=yes
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# check NAME COMMAND...: one line each; the output only when it fails
check()
{
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $name ($(($(date +%s) - start)) s)"
    else
        failed=$((failed + 1))
        echo "FAIL  $name"
        tail -n 60 "$log"
    fi
}

# suite NAME FOLDER [meson test arguments]: counts each of meson's tests
suite()
{
    name=$1
    folder=$2
    shift 2
    start=$(date +%s)
    status=0
    meson test -C "$folder" --no-rebuild --print-errorlogs "$@" >"$log" 2>&1 || status=$?
    counts=$(tail -n 12 "$log") # what failed may have printed such lines of its own before
    ok=$(echo "$counts" | sed -n 's/^Ok: *\([0-9]*\).*/\1/p')
    bad=$(echo "$counts" | sed -n 's/^Fail: *\([0-9]*\).*/\1/p; s/^Timeout: *\([0-9]*\).*/\1/p' | paste -sd+ | sed 's/^$/0/')
    bad=$(($bad))
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    passed=$((passed + ${ok:-0}))
    failed=$((failed + bad))
    echo "$([ "$bad" -eq 0 ] && echo "ok   " || echo "FAIL ") $name: ${ok:-0} passed, $bad failed ($(($(date +%s) - start)) s)"
    [ "$bad" -eq 0 ] || tail -n 120 "$log"
}

setup()
{
    folder=$1
    shift
    if [ -f "$folder/build.ninja" ]; then
        meson configure "$folder" "$@"
    else
        meson setup "$folder" "$@"
    fi
}

build_and_test()
{
    what=$1
    where=$2
    shift 2
    check "$what: configure" setup "$where" "$@"
    check "$what: build" ninja -C "$where"
    suite "$what: tests" "$where" $suites
}

scripts/packages.sh build test
check "style" scripts/style.sh
suites="--no-suite matrix --no-suite author --no-suite conformance"
build_and_test "gcc, release" build -Dbuildtype=release -Dtests=enabled -Dwerror=true
if [ "$long" = yes ]; then
    suite "every layer at every layout" build --suite matrix
    suite "an author's first minutes" build --suite author
    suite "every plugin keeps its contracts" build --suite conformance
    suites="--suite unit --suite bad --suite run"
    CC=clang build_and_test "clang" build-clang -Dbuildtype=release -Dtests=enabled -Dwerror=true \
        -Dcuda=disabled
    CC=clang build_and_test "address and undefined behaviour" build-asan -Dbuildtype=debugoptimized \
        -Dtests=enabled -Dcuda=disabled -Db_sanitize=address,undefined -Db_lundef=false
    suites="--suite unit --suite run"
    build_and_test "static plugins" build-static -Dbuildtype=release -Dtests=enabled -Dplugins=static \
        -Dcuda=disabled
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
