// stop.c: what ends an answer beside its end token and its length: --stop TEXT, which may span tokens, so that what can still
// become one is not shown yet; and a loop, out of which a model that always says the most probable does not come by itself.

#include "cli.h"

#include <string.h>

size_t stop_before(const Options *o, const Buffer *text, size_t from, int *found) {
    for (*found = 1; *found >= 0; --*found) {  // a whole one anywhere, then the beginning of one at the end
        for (size_t at = from; at < text->n; at++) {
            for (int i = 0; i < o->n_stops; i++) {
                size_t n = strlen(o->stops[i]), there = text->n - at;
                if ((there >= n || !*found) && !memcmp(text->bytes + at, o->stops[i], there < n ? there : n)) return at;
            }
        }
    }
    *found = 0;
    return text->n;
}

int in_loop(Answer *a) {
    for (int period = 1; period <= LOOP_PERIOD && period < a->n_ids; period++) {
        int *run = &a->runs[period];
        *run = a->ids[a->n_ids - 1] == a->ids[a->n_ids - 1 - period] ? *run + 1 : 0;
        int covered = *run + period;
        if (covered >= LOOP_TOKENS && covered >= LOOP_TIMES * period) return period;
    }
    return 0;
}
