#!/bin/sh
# Builds the firmware for both boards, runs it in qemu, and compares answer and logits with those of ./run on this machine.

cd "$(dirname "$0")" || exit 1
for tool in arm-none-eabi-gcc qemu-system-arm; do
    if ! command -v $tool > /dev/null; then
        echo "make mcu: skipped, there is no $tool (Debian: gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)"
        exit 0
    fi
done
run=../../run
passed=0 failed=0

check() {  # WHAT FOUND WANTED
    if [ -n "$2" ] && [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "ports/cortex-m/check.sh: $1 is '$2', not '$3'"
    fi
}

# What the firmware said of something.
field() { printf '%s\n' "$said" | tr -d '\r' | sed -n "s/^$1: //p"; }

# MACHINE FIRMWARE: what it said and its exit status. With -icount shift=0 an instruction takes a nanosecond.
run_on() {
    said=$(timeout 300 qemu-system-arm -M "$1" -display none -monitor none -serial none -icount shift=0 \
        -chardev stdio,id=host -semihosting-config enable=on,target=native,chardev=host -kernel "$2" 2>&1 < /dev/null)
    status=$?
}

# The sections of the firmware, by what they occupy.
sizes() {
    arm-none-eabi-size -A "$1" | awk '
        $1 == ".text" || $1 == ".ARM.exidx" { code += $2 }
        $1 == ".data" { code += $2; data += $2 }
        $1 == ".bss" { data += $2 }
        $1 == ".model" { model = $2 }
        $1 == ".arena" { arena = $2 }
        $1 == ".stack" { stack = $2 }
        END {
            printf "flash: %d bytes: code %d, model and picture %d\n", code + model, code, model
            printf "RAM: %d bytes: variables %d, arena %d, stack %d\n", data + arena + stack, data, arena, stack
        }'
}

# BOARD MACHINE MODEL PICTURE QUESTION TILED
answers_as_here() {
    what="$1, $(basename "$3"), $(basename "$4"), \"$5\""
    elf=../../build/mcu/$1/firmware.elf
    echo "==== $what"
    if ! make -s BOARD="$1" MODEL="$3" PICTURE="$4" QUESTION="$5" TILED="$6"; then
        check "$what: build" failed done
        return
    fi
    run_on "$2" "$elf"
    printf '%s\n' "$said"
    sizes "$elf"
    untiled=--no-tiling
    [ "$6" -eq 1 ] && untiled=
    json=$($run "$3" -i "$4" $untiled --json "$5")
    check "$what: status" "$status" 0
    check "$what: answer" "$(field answer)" "$(printf '%s' "$json" | sed 's/^{"text":"\([^"]*\)".*/\1/')"
    check "$what: logits" "$(field logits_sha256)" "$(printf '%s' "$json" | sed 's/.*"logits_sha256":"\([^"]*\)".*/\1/')"
    check "$what: calls" "$(arm-none-eabi-nm "$elf" | grep -cE ' (fmaf?|sqrtf?|malloc|_sbrk)$')" 0
}

both() {
    answers_as_here an500 mps2-an500 "$@"
    answers_as_here an547 mps3-an547 "$@"
}

# A firmware that lacks memory says so and stops.
lacks_memory() {
    make -s BOARD=an500 ARENA_KB=300
    run_on mps2-an500 ../../build/mcu/an500/firmware.elf
    printf '==== an500, an arena of 300 KB\n%s\n' "$said"
    check "too little memory: status" "$status" 1
    check "too little memory: last line" "$(printf '%s\n' "$said" | tail -1)" "smol: the arena is too small"
}

# TYPE: the demonstration model in that type of weights.
quantised() {
    export=../../export/export.py
    if ! ../../.venv/bin/python $export $demo --type "$1" -o ../../build/mcu/demo-"$1".smol --quiet; then
        echo "make mcu: $1 skipped, there is no .venv with numpy (make test sets it up)"
        return 1
    fi
}

demo=../../models/demo
mkdir -p ../../build/mcu
both $demo/demo.smol $demo/pictures/11_colour.png "Is there a blue shape?" 0
quantised q8 && both ../../build/mcu/demo-q8.smol $demo/pictures/11_colour.png "Is there a blue shape?" 0
quantised q4 && both ../../build/mcu/demo-q4.smol $demo/pictures/06_display.png "Read the meter." 1
lacks_memory
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
