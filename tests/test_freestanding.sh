#!/bin/sh
# What the engine asks of a machine: each of its files compiles with -ffreestanding, includes no more than string.h, math.h and what
# every C compiler brings, refers to no function beyond the list below, and has no variables of its own.
# CC and ENGINE (the files' names without .c) come from the Makefile.

cd "$(dirname "$0")/.." || exit 1
allowed="memchr memcmp memcpy memmove memset strchr strcmp strlen fabsf fmaf sqrtf"
headers="string.h math.h stdarg.h stddef.h stdint.h float.h"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

check() {  # WHAT FOUND: nothing must have been found
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "tests/test_freestanding.sh: $1:" $2
    fi
}

# The lines of $1 that are none of the words in $2.
others() {
    printf '%s\n' "$1" | sed '/^$/d' | sort -u | while read -r word; do
        case " $2 " in *" $word "*) ;; *) printf '%s ' "$word" ;; esac
    done
}

for name in $ENGINE; do
    more=
    case $name in kernels_*) more="immintrin.h arm_neon.h sys/auxv.h sys/sysctl.h" ;; esac  # a processor's intrinsics, and what it can do
    included=$(sed -n 's/^#include <\(.*\)>.*/\1/p' "$name.c" smol.h internal.h)
    check "$name.c includes" "$(others "$included" "$headers $more")"
    if ! $CC -std=c11 -ffp-contract=off -ffreestanding -fno-pie -O1 -c "$name.c" -o "$folder/$name.o"; then
        check "$name.c" "does not compile"
    fi
done

nm "$folder"/*.o | sed -n 's/^[0-9a-f]* [TR] //p' | sort -u > "$folder/defined"
for name in $ENGINE; do
    runtime=
    case $name in kernels_*) runtime="__cpu_model __cpu_features2 getauxval sysctlbyname" ;; esac  # what the processor can do
    called=$(nm -u "$folder/$name.o" | sed -n 's/^ *U //p')
    check "$name.c calls" "$(others "$called" "$allowed $runtime $(tr '\n' ' ' < "$folder/defined")")"
    check "$name.c has variables" "$(nm "$folder/$name.o" | sed -n 's/^[0-9a-f]* [bBdDcC] //p' | tr '\n' ' ')"
done

echo "test_freestanding: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
