# shellcheck shell=bash disable=SC2154 # logs is the caller's
# Counting and running the steps of a check. Sourced, not run; the caller is in the root of the repository, has set
# $logs to a folder, and ends with `finish`.

jobs=$(nproc)
at_once=$((jobs + (jobs + 1) / 2)) # tests: many wait most of their time
passed=0
failed=0
skipped=0

# finish: the last line, and the exit code.
finish()
{
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
    exit
}

# step NAME COMMAND...: counts as one test; its output is shown when it fails.
step()
{
    local name=$1 log=$logs/check-$1.log begin=$SECONDS
    shift
    printf '%-34s' "$name"
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf 'ok       %4d s\n' $((SECONDS - begin))
        return 0
    fi
    failed=$((failed + 1))
    printf 'FAILED   %4d s\n' $((SECONDS - begin))
    tail -n 60 "$log"
    return 1
}

# skip NAME SENTENCE: counts as a test that could not be run here.
skip()
{
    skipped=$((skipped + 1))
    printf '%-34sskipped: %s\n' "$1" "$2"
}

# tests NAME PRESET ARGUMENT...: runs CTest and adds its tests up from its report.
tests()
{
    local name=$1 preset=$2 log=$logs/check-$1.log report=$logs/check-$1.xml begin=$SECONDS numbers
    shift 2
    printf '%-34s' "$name"
    ctest --preset "$preset" -j "$at_once" --output-junit "$report" "$@" >"$log" 2>&1
    numbers=$(sed -n 's/^[[:space:]]*\(tests\|failures\|disabled\|skipped\)="\([0-9]*\)".*/\1=\2/p' "$report" 2>/dev/null)
    local total=0 failures=0 disabled=0 left_out=0 number
    for number in $numbers; do
        case $number in
        tests=*) total=${number#*=} ;;
        failures=*) failures=${number#*=} ;;
        disabled=*) disabled=${number#*=} ;;
        skipped=*) left_out=${number#*=} ;;
        esac
    done
    left_out=$((left_out + disabled))
    if [ "$total" -eq 0 ]; then
        failed=$((failed + 1))
        printf 'FAILED   no test ran\n'
        tail -n 20 "$log"
        return
    fi
    passed=$((passed + total - failures - left_out))
    failed=$((failed + failures))
    skipped=$((skipped + left_out))
    printf '%d passed, %d failed, %d skipped   %4d s\n' $((total - failures - left_out)) "$failures" "$left_out" \
        $((SECONDS - begin))
    if [ "$failures" -gt 0 ]; then # what failed, with its output
        grep -vE ' Passed |^ *Start +[0-9]+:|Skipped +[0-9.]+ sec$' "$log"
    fi
}

# build PRESET: configures and builds.
build()
{
    cmake --preset "$1" && cmake --build --preset "$1" -j "$jobs"
}
