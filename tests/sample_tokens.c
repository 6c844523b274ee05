// sample_tokens.c: how often smol_sample draws each token, for tests/test_cli.py.
//
//     sample_tokens TEMPERATURE TOP_K TOP_P N_SEEDS < logits (f32) > counts, one a line
//
// Every seed from 0 to N_SEEDS - 1 draws one token, as the first token of an answer is drawn.

#include "../internal.h"
#include "test.h"

int main(int argc, char **argv) {
    static float logits[1 << 16], probs[1 << 16];
    static int32_t order[1 << 16];
    static long counts[1 << 16];
    if (argc != 5) return 2;
    int n = (int)fread(logits, sizeof *logits, 1 << 16, stdin);
    SmolModel model = {.config.vocab_size = n};
    SmolEngine engine = {.model = &model, .kernel = kernel_find("c"), .probs = probs, .order = order};
    for (long seed = 0; seed < atol(argv[4]); seed++) {
        SmolSampling s = {(float)atof(argv[1]), (float)atof(argv[3]), atoi(argv[2]), (uint64_t)seed};
        counts[smol_sample(&engine, logits, &s)]++;
    }
    for (int i = 0; i < n; i++) printf("%ld\n", counts[i]);
    return 0;
}
