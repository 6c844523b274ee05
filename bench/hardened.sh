#!/bin/bash
# hardened.sh MODEL: what build/hardened/run costs: the processor time of one thread for a picture of one tile, its prompt and 24
# tokens, in turns with build/run. Of ROUNDS (9) the least counts, for what else runs on a machine makes it slower, never faster.

cd "$(dirname "$0")/.." || exit 1
model=$1
TIMEFORMAT=%U

seconds() {
    { time "$1" "$model" -j 1 -i models/demo/pictures/10_how_many.png --no-tiling -n 24 --json "Describe it." > /dev/null; } 2>&1
}

for ((round = 0; round < ${ROUNDS:-9}; round++)); do
    for run in build/run build/hardened/run; do
        echo "$run $(seconds $run)"
    done
done | awk '
    !($1 in least) || $2 < least[$1] { least[$1] = $2 }
    END {
        a = least["build/run"]; b = least["build/hardened/run"]
        if (a <= 0 || b <= 0) exit 1
        printf "%s: build/run %.3f s, build/hardened/run %.3f s: %+.1f %%\n", model, a, b, (b / a - 1) * 100
    }' model="$model"
