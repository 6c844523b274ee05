#!/bin/sh
# What the program could do: none of its objects refers to a function that reaches the network, starts another program or loads
# code. The list is below; an object that refers to every name in it shows that each would be found.
# CC, BUILD, ENGINE and PROGRAM (the files' names without .c) come from the Makefile.

cd "$(dirname "$0")/.." || exit 1
network="socket socketpair connect bind listen accept accept4 send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg
    getaddrinfo getnameinfo gethostbyname gethostbyname2 gethostbyname_r gethostbyaddr getservbyname res_query res_search
    setsockopt getsockopt getsockname getpeername if_nametoindex inet_addr inet_aton inet_pton"
programs="system popen fork vfork _Fork clone clone3 posix_spawn posix_spawnp execl execlp execle execv execvp execvpe execve
    execveat fexecve wordexp forkpty ptrace syscall"
code="dlopen dlmopen dlsym dlvsym mprotect memfd_create init_module userfaultfd io_uring_setup"
forbidden=$(echo $network $programs $code)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

check() {  # WHAT FOUND EXPECTED
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "tests/test_symbols.sh: $1: \"$2\", not \"$3\""
    fi
}

# Those names on the list that a file refers to, in the order of the list.
found() {
    used=" $(nm -u "$1" | sed 's/^ *[Uw] //; s/@.*//; s/^_\([a-z]\)/\1/' | tr '\n' ' ') "
    for name in $forbidden; do
        case $used in *" $name "*) printf '%s ' "$name" ;; esac
    done
}

for name in $forbidden; do
    echo "extern char $name[]; const void *const refers_to_$name = $name;"
done > "$folder/control.c"
$CC -w -fno-builtin -fno-pie -c "$folder/control.c" -o "$folder/control.o" || check "the control" "does not compile" ""
check "the control refers to" "$(found "$folder/control.o")" "$forbidden "

for name in $ENGINE $PROGRAM; do
    check "$name.o exists" "$(ls "$BUILD/$name.o" 2>&1)" "$BUILD/$name.o"
    check "$name.o refers to" "$(found "$BUILD/$name.o")" ""
done
check "every source file is one of these" "$(ls ./*.c | wc -l)" "$(echo $ENGINE $PROGRAM | wc -w)"

# A sanitizer's runtime, linked into the program, has its own reasons.
if ! nm "$BUILD/run" | grep -q -e __asan_init -e __ubsan_; then
    check "run refers to" "$(found "$BUILD/run")" ""
fi

echo "test_symbols: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
