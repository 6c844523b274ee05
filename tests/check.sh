#!/bin/sh
# Runs the C test programs that are its arguments, from the repository root. Each ends with "NAME: N passed, N failed"; the
# last line here is the sum. A program that ends otherwise counts as one failure.

cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0
for program in "$@"; do
    output=$("$program")
    status=$?
    [ -n "$output" ] && printf '%s\n' "$output"
    counts=$(printf '%s\n' "$output" | sed -n '$s/^.*: \([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p')
    if [ -z "$counts" ]; then
        echo "$program: ended with status $status and no result"
        counts="0 1"
    elif [ "$status" -ne 0 ] && [ "${counts#* }" -eq 0 ]; then
        echo "$program: ended with status $status"
        counts="${counts% *} 1"
    fi
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
