#!/bin/bash
# How much of the engine the C tests run: lines, and branches taken each way, by file and in sum. The arguments: the folder of a build
# with gcc --coverage, then the engine's files without .c. Kernels are left out, as no machine can run all of them; the
# plain one is part of quant.c. What no test reaches is printed line by line; some of it only a 32-bit machine can reach,
# where sizes do not fit. Ends with status 1 below $LEAST percent of branches.

cd "$(dirname "$0")/.." || exit 1
build=$1 least=${LEAST:-98}
shift
names=()
for name in "$@"; do
    case $name in kernels_*) ;; *) names+=("$name") ;; esac
done

find "$build" -name '*.gcda' -delete
for test in "$build"/test_*; do
    case $test in *.gcno | *.gcda) continue ;; esac
    "$test" > "$build/output" 2>&1 || { cat "$build/output"; exit 1; }
done

count() { for name in "${names[@]}"; do gcov "$1" -b -c -r -o "$build" "$name.gcda" 2> /dev/null; done; }

# vector.h comes with quant.c.
count -n | awk -v least="$least" '
    /^File/ { file = $2; gsub(/\047/, "", file) }
    /^Lines executed/ { split($2, part, ":"); lines = part[2] + 0; n_lines = $4; counts = file ~ /\.c$/ || file == "vector.h" }
    /^Taken at least once/ && counts {
        split($4, part, ":")
        branches = part[2] + 0
        printf "%-20s lines %6.2f%% of %4d   branches %6.2f%% of %4d\n", file, lines, n_lines, branches, $6
        all_lines += n_lines; hit_lines += lines * n_lines / 100; all += $6; hit += branches * $6 / 100; counts = 0
    }
    END {
        percent = 100 * hit / all
        printf "%-20s lines %6.2f%% of %4d   branches %6.2f%% of %4d\n", "the engine", 100 * hit_lines / all_lines, all_lines, percent, all
        exit percent < least
    }'
status=$?

count -t | awk '
    /^ *-: +0:Source:/ { file = $0; sub(/.*Source:/, "", file) }
    /^ *(#####|=====|[0-9]+\*?):/ { line = $0; sub(/^[^:]*: */, "", line); sub(/: */, ": ", line) }
    /^ *(#####|=====):/ { print "never run: " file ":" line }
    /^branch +[0-9]+ (never|taken 0)/ && file ":" line != last { print "one way only: " file ":" line; last = file ":" line }'
exit $status
