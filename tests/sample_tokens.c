// sample_tokens.c: how often smol_sample draws each token, for tests/test_cli.py.
//
//     sample_tokens TEMPERATURE TOP_K TOP_P MIN_P PENALTY N_SEEDS [SEEN ...] < logits (f32) > counts, one a line
//
// Every seed from 0 to N_SEEDS - 1 draws one token, as the first token of an answer is drawn. SEEN are ids.

#include "../internal.h"
#include "test.h"

int main(int argc, char **argv) {
    static float logits[1 << 16], probs[1 << 16];
    static int32_t order[1 << 16];
    static long counts[1 << 16];
    static int32_t seen[1 << 16];
    if (argc < 7) return 2;
    for (int i = 7; i < argc; i++) seen[i - 7] = atoi(argv[i]);
    int n = (int)fread(logits, sizeof *logits, 1 << 16, stdin);
    SmolModel model = {.config.vocab_size = n};
    SmolEngine engine = {.model = &model, .kernel = kernel_find("c"), .probs = probs, .order = order};
    for (long seed = 0; seed < atol(argv[6]); seed++) {
        SmolSampling s = {.temperature = (float)atof(argv[1]), .top_k = atoi(argv[2]), .top_p = (float)atof(argv[3]),
                          .min_p = (float)atof(argv[4]), .repeat_penalty = (float)atof(argv[5]), .seen = seen,
                          .n_seen = argc - 7, .rng = (uint64_t)seed};
        counts[smol_sample(&engine, logits, &s)]++;
    }
    for (int i = 0; i < n; i++) printf("%ld\n", counts[i]);
    return 0;
}
