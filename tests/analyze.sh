#!/bin/bash
# Three analyzers over the files that are the arguments: gcc -fanalyzer, clang-tidy (.clang-tidy has its checks) and cppcheck.
# Each prints what it finds, then its name, result and seconds; one that is not installed is skipped. They read the code
# for this machine's processor.

cd "$(dirname "$0")/.." || exit 1
failed=0
[ $# -gt 0 ] || { echo "tests/analyze.sh: no files"; exit 2; }
language="-std=c11 -ffp-contract=off -Wall -Wextra -Wshadow -Wno-unknown-pragmas"

run_gcc() {
    # What gcc 12 sees in two files and is not so: a free after realloc has failed and the program has ended; a stream and
    # memory lost that the structure holds, which video_close frees.
    case $1 in
        host.c) more=-Wno-analyzer-double-free ;;
        video.c) more="-Wno-analyzer-file-leak -Wno-analyzer-malloc-leak" ;;
        *) more= ;;
    esac
    gcc -fanalyzer $language -Werror -O1 -fopenmp $more -c "$1" -o /dev/null
}

run_tidy() { clang-tidy --quiet "$1" -- $language 2> /dev/null; }

# Not so is what these say: an index compared to break a tie comes after its use; a strip has a column, logits have an entry;
# all compilers shift negative numbers alike, which C11 leaves to them; floats are made in memory that malloc gave.
run_cppcheck() {
    cppcheck --std=c11 --enable=warning,portability --inline-suppr --quiet --error-exitcode=1 --suppress=invalidPointerCast --suppress=arrayIndexThenCheck \
        --suppress=uninitvar:jpeg.c --suppress=invalidFunctionArg:logprobs.c \
        --suppress=shiftNegativeLHS:vector.h --suppress=shiftTooManyBitsSigned:vector.h "$1"
}

export -f run_gcc run_tidy run_cppcheck
export language

analyze() {  # PROGRAM FUNCTION FILE ...
    local program=$1 function=$2 begin=$SECONDS result=clean
    shift 2
    if ! command -v "$program" > /dev/null; then
        echo "$program: skipped, it is not installed"
        return
    fi
    if ! printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c "$function {}"; then
        result="there are warnings"
        failed=1
    fi
    echo "$program: $result, $# files in $((SECONDS - begin)) s"
}

analyze gcc run_gcc "$@"
analyze clang-tidy run_tidy "$@"
analyze cppcheck run_cppcheck "$@"
exit $failed
