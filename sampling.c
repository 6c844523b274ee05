// sampling.c: the choice of the next token from its logits, as transformers' generate() makes it:
//
//     repetition penalty      the logits of tokens that were there already: divided by it above 0, multiplied below
//     temperature, softmax    0: the largest logit and nothing more
//     top-k                   of the sorted ids, so many
//     top-p                   of those, the fewest that together reach p
//     min-p                   of those, the ones that reach p times the first one's probability

#include "internal.h"

#include <string.h>

// SplitMix64 (Steele, Lea, Flood 2014): 24 random bits as a number in [0, 1).
static float random_unit(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((z ^ z >> 31) >> 40) / 16777216.0f;
}

// The most probable first; of equal ones the lower id.
static int before(const float *p, int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

// Lets order[i] sink in a heap of n whose top is the last in order.
static void sink(const float *p, int32_t *order, int i, int n) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, order[child], order[child + 1])) child++;
        if (!before(p, order[i], order[child])) return;
        int32_t swap = order[i];
        order[i] = order[child];
        order[child] = swap;
    }
}

// Heap sort: no recursion, no further memory.
static void sort_by_probability(const float *p, int32_t *order, int n) {
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n / 2 - 1; i >= 0; i--) sink(p, order, i, n);
    for (int last = n - 1; last > 0; last--) {
        int32_t swap = order[0];
        order[0] = order[last];
        order[last] = swap;
        sink(p, order, 0, last);
    }
}

static int32_t most_probable(const float *logits, int n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) best = logits[i] > logits[best] ? i : best;
    return best;
}

// Each logit is penalised once, however often its token was there: what counts is the logit as the model gave it.
static const float *penalise(SmolEngine *e, const float *logits, const SmolSampling *s) {
    memcpy(e->probs, logits, (size_t)e->model->config.vocab_size * sizeof *logits);
    for (int i = 0; i < s->n_seen; i++) {
        float x = logits[s->seen[i]];
        e->probs[s->seen[i]] = x < 0 ? x * s->repeat_penalty : x / s->repeat_penalty;
    }
    return e->probs;
}

// How many of the sorted ids may be drawn; mass is what they weigh together.
static int count_candidates(const SmolEngine *e, const SmolSampling *s, int n, float *mass) {
    int top_k = s->top_k > 0 && s->top_k < n ? s->top_k : n, kept = 0;
    float of_top_k = 0, least = s->min_p * e->probs[e->order[0]];
    for (int i = 0; i < top_k; i++) of_top_k += e->probs[e->order[i]];
    *mass = 0;
    do *mass += e->probs[e->order[kept++]];
    while (kept < top_k && *mass < s->top_p * of_top_k && e->probs[e->order[kept]] >= least);
    return kept;
}

int32_t smol_sample(SmolEngine *e, const float *logits, SmolSampling *s) {
    int n = e->model->config.vocab_size;
    if (s->n_seen > 0) logits = penalise(e, logits, s);
    if (s->temperature <= 0) return most_probable(logits, n);
    if (logits != e->probs) memcpy(e->probs, logits, (size_t)n * sizeof *logits);
    e->kernel->ops->softmax(e->probs, n, 1 / s->temperature);
    sort_by_probability(e->probs, e->order, n);

    float mass;
    int kept = count_candidates(e, s, n, &mass);
    float target = random_unit(&s->rng) * mass;
    for (int i = 0; i < kept - 1; i++) {
        target -= e->probs[e->order[i]];
        if (target < 0) return e->order[i];
    }
    return e->order[kept - 1];
}
