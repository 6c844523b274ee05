#!/bin/sh
# run.sh FOLDER SECONDS NAME...: runs each FOLDER/fuzz_NAME. It starts from the golden files and tests/fuzz/corpus,
# which stay as they are, and from what earlier runs left in FOLDER/corpus, where it adds its own inputs that reach new
# code. Findings are FOLDER/NAME-*: mend the code and put the input into tests/fuzz/corpus/NAME, which tests/test_fuzz.c
# repeats in every make check.

cd "$(dirname "$0")/../.." || exit 1
folder=$1 seconds=$2
shift 2
failed=0

# Golden files as inputs: pictures by their ending; for the tokenizer the first byte says what the rest is.
seed() {
    rm -rf "$2" && mkdir -p "$2"
    case $1 in
    png) cp tests/golden/pictures/*.png "$2" ;;
    jpeg) cp tests/golden/pictures/*.jpg "$2" ;;
    bmp) cp tests/golden/pictures/*.bmp "$2" ;;
    pnm) cp tests/golden/tiny.ppm tests/golden/pictures/png_c3_d4.png tests/golden/pictures/jpeg_q10.jpg "$2" ;;
    tokenizer) for s in tokenizer tekken sentencepiece; do { printf '\004' && cat tests/golden/$s.bin; } > "$2/$s"; done ;;
    model) cp tests/golden/tiny.smol "$2" ;;
    json) cp tests/fuzz/corpus/json/record "$2" ;;
    esac
}

for name in "$@"; do
    seed "$name" "$folder/seeds/$name"
    mkdir -p "$folder/corpus/$name" "tests/fuzz/corpus/$name"
    echo "==== fuzz_$name, $seconds s"
    "$folder/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2000 -artifact_prefix="$folder/$name-" \
        -verbosity=0 -print_final_stats=1 "$folder/corpus/$name" "tests/fuzz/corpus/$name" "$folder/seeds/$name" \
        > "$folder/$name.log" 2>&1
    status=$?
    if [ "$status" -ne 0 ]; then
        failed=1
        tail -40 "$folder/$name.log"
    fi
    grep -e number_of_executed -e new_units "$folder/$name.log"
done
exit $failed
