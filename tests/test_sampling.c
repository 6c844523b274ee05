// test_sampling.c: the choice of a token with every option, against counts that follow from the logits. tests/test_cli.py
// compares the frequencies with transformers.

#include "../internal.h"
#include "test.h"

#include <math.h>

enum { N = 5, DRAWS = 20000 };

static float probs[16];
static int32_t order[16];
static const SmolModel model = {.config = {.vocab_size = N}};
static SmolEngine engine = {.model = &model, .probs = probs, .order = order};

// Frequencies of the tokens in DRAWS draws.
static void draw(double share[N], const float *logits, SmolSampling s) {
    int count[N] = {0};
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = smol_sample(&engine, logits, &s);
        CHECK(id >= 0 && id < N, "token %d", (int)id);
        if (id >= 0 && id < N) count[id]++;
    }
    for (int i = 0; i < N; i++) share[i] = (double)count[i] / DRAWS;
}

// Four standard deviations of a frequency.
static int near(double share, double p) { return fabs(share - p) <= 4 * sqrt(p * (1 - p) / DRAWS); }

static void check(const char *what, const float *logits, SmolSampling s, const double p[N]) {
    double share[N];
    draw(share, logits, s);
    for (int i = 0; i < N; i++) CHECK(near(share[i], p[i]), "%s: token %d in %g of all draws, not %g", what, i, share[i], p[i]);
}

// Probabilities 0.1, 0.4, 0.2, 0.05, 0.25.
static void test_filters(void) {
    const float logits[N] = {logf(0.1f), logf(0.4f), logf(0.2f), logf(0.05f), logf(0.25f)};
    SmolSampling s = {.temperature = 1, .top_p = 1, .rng = 1};
    check("temperature 1", logits, s, (double[N]){0.1, 0.4, 0.2, 0.05, 0.25});
    s.temperature = 0.5f;  // squares, 0.275 in all
    check("temperature 0.5", logits, s, (double[N]){0.01 / 0.275, 0.16 / 0.275, 0.04 / 0.275, 0.0025 / 0.275, 0.0625 / 0.275});
    s.temperature = 1;
    s.top_k = 2;
    check("top-k 2", logits, s, (double[N]){0, 0.4 / 0.65, 0, 0, 0.25 / 0.65});
    s.top_k = 7;
    check("top-k of more than there are", logits, s, (double[N]){0.1, 0.4, 0.2, 0.05, 0.25});
    s.top_k = 0;
    s.top_p = 0.7f;
    check("top-p 0.7", logits, s, (double[N]){0, 0.4 / 0.85, 0.2 / 0.85, 0, 0.25 / 0.85});
    s.top_p = 1;
    s.min_p = 0.4f;
    check("min-p 0.4", logits, s, (double[N]){0, 0.4 / 0.85, 0.2 / 0.85, 0, 0.25 / 0.85});
    s.min_p = 1;
    check("min-p 1", logits, s, (double[N]){0, 1, 0, 0, 0});
}

static void test_penalty(void) {
    const float logits[N] = {2, 1.5f, -1, -1.5f, 0};
    const int32_t seen[] = {0, 3, 0};
    SmolSampling s = {.temperature = 0, .top_p = 1, .repeat_penalty = 2, .seen = seen, .n_seen = 3};
    CHECK(smol_sample(&engine, logits, &s) == 1, "2 / 2 is below 1.5");
    CHECK(probs[0] == 1 && probs[3] == -3 && probs[2] == -1, "each is penalised once: %g %g", (double)probs[0],
          (double)probs[3]);
    s.n_seen = 0;
    CHECK(smol_sample(&engine, logits, &s) == 0, "nothing was seen");
    s.temperature = 1;
    s.n_seen = 3;
    const double e[N] = {exp(1), exp(1.5), exp(-1), exp(-3), 1}, sum = e[0] + e[1] + e[2] + e[3] + e[4];
    check("penalty", logits, s, (double[N]){e[0] / sum, e[1] / sum, e[2] / sum, e[3] / sum, e[4] / sum});
}

static void test_ties(void) {
    const float equal[N] = {1, 3, 3, 3, 0};
    SmolSampling s = {.top_p = 1};
    CHECK(smol_sample(&engine, equal, &s) == 1, "the lowest id wins");
    s.temperature = 1;
    s.top_k = 1;
    CHECK(smol_sample(&engine, equal, &s) == 1, "also among the sorted");
}

int main(void) {
    engine.kernel = kernel_find("c");
    test_filters();
    test_penalty();
    test_ties();
    return test_end("test_sampling");
}
