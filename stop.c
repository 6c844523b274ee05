// stop.c: --stop TEXT, before which an answer ends. It may span tokens, so what can still become one is not shown yet.

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
