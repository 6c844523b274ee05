#!/bin/sh
# make hardened: what the flags of build/hardened/run promise is there, as readelf shows it, and the answer is the same: the digest
# of all logits of the demonstration model, in each kernel, is that of build/run. The ordinary build is looked at, too, so that it
# is known that each property could be missing.

cd "$(dirname "$0")/.." || exit 1
plain=build/run hardened=build/hardened/run
passed=0 failed=0

check() {  # WHAT CONDITION ...
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "yes  $what"
    else
        failed=$((failed + 1))
        echo "NO   $what"
    fi
}

has() { readelf -W "$2" "$3" | grep -q -e "$1"; }
has_not() { ! has "$@"; }
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }

is_probed() {  # FLAGS ...: -fstack-clash-protection, a frame of many pages touches each
    echo 'void g(char *); void f(void) { char a[100000]; g(a); }' | $CC "$@" -S -x c - -o - 2> /dev/null | grep -q -e "4096" -e "65536"
}

not_probed() { ! is_probed "$@"; }

digest() { "$1" models/demo/demo.smol -i models/demo/pictures/06_display.png --json --kernel "$2" "Read the meter." | sed 's/.*logits_sha256":"\([0-9a-f]*\).*/\1/'; }

check "position-independent: the file is of type DYN" has 'Type: *DYN' -h $hardened
check "no executable stack" has 'GNU_STACK.* RW ' -l $hardened
check "relocations are read-only" has GNU_RELRO -l $hardened
check "and all done at the start" has 'BIND_NOW\|FLAGS.*NOW' -d $hardened
check "stack protector" has __stack_chk_fail -s $hardened
check "fortified functions of libc" has '__[a-z]*_chk@' -s $hardened
check "stack clash protection" is_probed $CFLAGS
if [ "$(uname -m)" = x86_64 ]; then
    # Of the program's own code. The linker marks the whole only where libc's start files have it, too, which Debian's have not.
    check "control flow: IBT and SHSTK in every object" same "$(for o in build/hardened/*.o; do has 'IBT, SHSTK' -n "$o" || echo "$o"; done)." .
    check "the ordinary build has neither" has_not 'IBT, SHSTK' -n build/run.o
fi
check "the ordinary build has no stack protector" has_not __stack_chk_fail -s $plain
check "the ordinary build does not probe the stack" not_probed -O3 -g
check "the ordinary build has no fortified functions" has_not '__[a-z]*_chk@' -s $plain
for kernel in $($plain --kernels); do
    check "equal logits, kernel $kernel" same "$(digest $plain "$kernel")" "$(digest $hardened "$kernel")"
done
echo "hardened: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
