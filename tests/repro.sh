#!/bin/bash
# make repro: builds the program twice, in folders with names of different lengths, at different times, with other numbers of
# jobs, another language and another umask, and compares the two byte by byte. Prints their SHA-256, and the compiler, which
# decides it. Then builds with one more byte in a comment: the source's hash must make it another program, or nothing was compared.

cd "$(dirname "$0")/.." || exit 1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset MAKEFLAGS MAKELEVEL MFLAGS

build() {  # FOLDER MAKE'S OPTIONS ...: a copy of the source, and run built from it
    mkdir -p "$1" && cp Makefile ./*.c ./*.h "$1" && (cd "$1" && shift && make -s CC="${CC:-cc}" "$@" build/run)
}

build "$folder/a" -j1 || exit 1
sleep 1
(
    export LC_ALL=C.UTF-8 TZ=Asia/Tokyo SOURCE_DATE_EPOCH=1
    umask 077
    build "$folder/another/folder/with/a/longer/name" -j2
) || exit 1
if ! cmp "$folder/a/build/run" "$folder/another/folder/with/a/longer/name/build/run"; then
    echo "two builds differ"
    exit 1
fi
if grep -qaF "$folder" "$folder/a/build/run"; then
    echo "the program holds the name of the folder that it was built in"
    exit 1
fi
echo "// more" >> "$folder/a/decoder.c"
(cd "$folder/a" && make -s CC="${CC:-cc}" build/run) || exit 1
if cmp -s "$folder/a/build/run" "$folder/another/folder/with/a/longer/name/build/run"; then
    echo "another source gives the same program"
    exit 1
fi
echo "two builds are equal, of $("$folder/another/folder/with/a/longer/name/build/run" --version) with $("${CC:-cc}" --version | head -1)"
sha256sum < "$folder/another/folder/with/a/longer/name/build/run"
