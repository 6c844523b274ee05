// logprobs.c: log-probabilities of tokens: log softmax(logits), in double.

#include "cli.h"

#include <math.h>
#include <string.h>

double log_sum_exp(const float *logits, int n) {
    double sum = 0;  // at least 1 in the end: the largest gives that
    float max = logits[0];
    for (int i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < n; i++) sum += exp((double)(logits[i] - max));
    return log(sum) + (double)max;
}

// The k largest of n to best, in order; of equal ones the lower id first.
static void find_best(const float *logits, int n, int k, int32_t *best) {
    int found = 0;
    for (int32_t id = 0; id < n; id++) {
        int at = found;
        while (at > 0 && logits[id] > logits[best[at - 1]]) at--;
        if (at == k) continue;
        if (found < k) found++;
        memmove(best + at + 1, best + at, (size_t)(found - 1 - at) * sizeof *best);
        best[at] = id;
    }
}

void logprobs_add(Answer *a, const float *logits, int n, int k, int32_t id) {
    int32_t best[MAX_LOGPROBS] = {0};
    size_t row = (size_t)k + 1, end = (size_t)a->n_ids * row;  // the token's own row is the last
    double all = log_sum_exp(logits, n);
    a->likely = need(a->likely, end * sizeof *a->likely, "log-probabilities");
    Likely *to = a->likely + end - row;
    find_best(logits, n, k, best);
    to[0] = (Likely){id, (double)logits[id] - all};
    for (int i = 0; i < k; i++) to[1 + i] = (Likely){best[i], (double)logits[best[i]] - all};
}
