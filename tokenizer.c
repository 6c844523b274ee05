// tokenizer.c: text to token ids and back, and the text of a prompt.
//
// SmolLM2's tokenizer, in four steps: control tokens are cut out of the raw text; the pre-tokenizer splits what is left
// into words; the bytes of a word become one token each; then the adjacent pair with the lowest rank among the merges
// becomes one token, again and again, until no pair has a merge (byte-level BPE). The ids of any text are those of
// Hugging Face's `tokenizers` (there: Digits, ByteLevel, BPE). Only text that the caller vouches for can become control
// tokens: what a user typed stays text, even when it looks like one.

#include "internal.h"
#include "unicode.h"

#include <string.h>

enum { SECTION_HEADER = 32, MERGE_BYTES = 16, SPECIAL_BYTES = 8 };  // FORMAT.md, Tokenizer
enum { DIGITS_THEN_GPT2 = 1 };                                      // pretokenizer
enum { CONTROL = 1 };                                               // flag of an added token
enum { TEMPLATE_SMOLVLM = 1 };

static const char MARK[] = "<image>";  // in a prompt: here stands a picture
enum { MARK_BYTES = sizeof MARK - 1 };

static const uint32_t NO_TOKEN = 0xffffffff;  // byte_id of a byte that the vocabulary lacks
static const uint32_t NO_PAIR = 0xffffffff;   // after every rank

// ---- characters ----

// Reads the character at p[0 .. n - 1], n >= 1, and returns its length. Where the bytes are no UTF-8 it returns minus
// the length of the part that one U+FFFD stands for (Unicode 3.9: a maximal subpart, as in Python's errors="replace").
static int utf8_decode(const uint8_t *p, size_t n, uint32_t *c) {
    uint8_t lead = p[0];
    *c = lead;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return -1;
    int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *c &= 0xffu >> (length + 1);
    // The second byte's range keeps out overlong forms, surrogates and all past U+10FFFF (Unicode table 3-7).
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n || p[i] < low || p[i] > high) return -i;
        *c = *c << 6 | (p[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

// The first place in s[0 .. n - 1] that is no UTF-8, or n.
static size_t utf8_valid(const uint8_t *s, size_t n) {
    uint32_t c;
    size_t i = 0;
    while (i < n) {
        int length = utf8_decode(s + i, n - i, &c);
        if (length < 0) break;
        i += (size_t)length;
    }
    return i;
}

static int class_of(uint32_t c) {
    size_t low = 0, high = sizeof class_runs / sizeof *class_runs;  // c is in one of the runs low .. high - 1
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (class_runs[middle] >> 4 <= c)
            low = middle;
        else
            high = middle;
    }
    return class_runs[low] & 15;
}

// ---- vocabulary ----

static const uint8_t *token_bytes(const SmolVocab *v, uint32_t id, size_t *n) {
    uint32_t begin = get_u32(v->token_offset + 4 * (size_t)id);
    *n = get_u32(v->token_offset + 4 * ((size_t)id + 1)) - begin;
    return v->bytes + begin;
}

// The row (left, right, rank, result) of a pair, or NULL. Rows are sorted by (left, right).
static const uint8_t *find_merge(const SmolVocab *v, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    size_t low = 0, high = v->n_merges;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint8_t *row = v->merges + MERGE_BYTES * middle;
        uint64_t here = (uint64_t)get_u32(row) << 32 | get_u32(row + 4);
        if (here == pair) return row;
        if (here < pair)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int check_tokens(const SmolVocab *v, uint32_t n_bytes, SmolErr *err) {
    uint32_t end = get_u32(v->token_offset);
    if (end != 0) return fail(err, SMOL_E_FORMAT, "tokenizer: the first token begins at byte %u, not 0", end);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        uint32_t next = get_u32(v->token_offset + 4 * ((size_t)i + 1));
        if (next < end) return fail(err, SMOL_E_FORMAT, "tokenizer: token %u ends before it begins", i);
        end = next;
    }
    if (end != n_bytes) return fail(err, SMOL_E_FORMAT, "tokenizer: tokens take %u of %u bytes", end, n_bytes);
    for (unsigned b = 0; b < 256; b++) {
        uint32_t id = get_u32(v->byte_id + 4 * b);
        if (id == NO_TOKEN) continue;
        size_t n = 0;
        const uint8_t *text = id < v->n_tokens ? token_bytes(v, id, &n) : NULL;
        if (n != 1 || *text != b)
            return fail(err, SMOL_E_FORMAT, "tokenizer: token %u does not stand for byte %u", id, b);
    }
    return 0;
}

static int check_merges(const SmolVocab *v, SmolErr *err) {
    for (uint32_t i = 0; i < v->n_merges; i++) {
        const uint8_t *row = v->merges + MERGE_BYTES * (size_t)i;
        uint32_t left = get_u32(row), right = get_u32(row + 4), rank = get_u32(row + 8), result = get_u32(row + 12);
        if (left >= v->n_tokens || right >= v->n_tokens || result >= v->n_tokens || rank >= v->n_merges)
            return fail(err, SMOL_E_FORMAT, "tokenizer: merge %u is out of range", i);
        const uint8_t *before = row - MERGE_BYTES;
        if (i > 0 && (get_u32(before) > left || (get_u32(before) == left && get_u32(before + 4) >= right)))
            return fail(err, SMOL_E_FORMAT, "tokenizer: merge %u is out of order", i);
        size_t n_left, n_right, n_result;
        const uint8_t *a = token_bytes(v, left, &n_left), *b = token_bytes(v, right, &n_right);
        const uint8_t *ab = token_bytes(v, result, &n_result);
        if (n_left + n_right != n_result || memcmp(ab, a, n_left) != 0 || memcmp(ab + n_left, b, n_right) != 0)
            return fail(err, SMOL_E_FORMAT, "tokenizer: merge %u does not give the bytes of its pair", i);
    }
    return 0;
}

static int check_special(const SmolVocab *v, SmolErr *err) {
    for (uint32_t i = 0; i < v->n_special; i++) {
        const uint8_t *row = v->special + SPECIAL_BYTES * (size_t)i;
        uint32_t id = get_u32(row), flags = get_u32(row + 4);
        if (id >= v->n_tokens || flags > CONTROL || (i > 0 && get_u32(row - SPECIAL_BYTES) >= id))
            return fail(err, SMOL_E_FORMAT, "tokenizer: added token %u is out of range or out of order", i);
        size_t n;
        const uint8_t *text = token_bytes(v, id, &n);
        if (n == 0 || utf8_valid(text, n) != n)
            return fail(err, SMOL_E_FORMAT, "tokenizer: added token %u has no text or is no UTF-8", id);
    }
    return 0;
}

int vocab_open(SmolVocab *v, const uint8_t *bytes, size_t n, int vocab_size, SmolErr *err) {
    if (n < SECTION_HEADER) return fail(err, SMOL_E_FORMAT, "tokenizer: cut off, %z bytes", n);
    v->n_tokens = get_u32(bytes);
    v->n_merges = get_u32(bytes + 4);
    v->n_special = get_u32(bytes + 8);
    uint32_t n_bytes = get_u32(bytes + 16);
    if (vocab_size < 1 || v->n_tokens != (uint32_t)vocab_size)
        return fail(err, SMOL_E_FORMAT, "tokenizer: %u tokens, but vocab_size is %d", v->n_tokens, vocab_size);
    if (get_u32(bytes + 12) != DIGITS_THEN_GPT2 || get_u32(bytes + 20) || get_u32(bytes + 24) || get_u32(bytes + 28))
        return fail(err, SMOL_E_FORMAT, "tokenizer: pre-tokenizer %u is unknown", get_u32(bytes + 12));
    // Every factor is below 2^32, so 64 bits hold the sum.
    uint64_t offsets = SECTION_HEADER + 256 * 4, merges = offsets + 4 * ((uint64_t)v->n_tokens + 1);
    uint64_t special = merges + MERGE_BYTES * (uint64_t)v->n_merges;
    uint64_t text = special + SPECIAL_BYTES * (uint64_t)v->n_special;
    if (text + n_bytes != n)
        return fail(err, SMOL_E_FORMAT, "tokenizer: its tables do not add up to its %z bytes", n);
    v->byte_id = bytes + SECTION_HEADER;
    v->token_offset = bytes + offsets;
    v->merges = bytes + merges;
    v->special = bytes + special;
    v->bytes = bytes + text;
    int code = check_tokens(v, n_bytes, err);
    if (!code) code = check_merges(v, err);
    if (!code) code = check_special(v, err);
    return code;
}

const char *smol_token_text(const SmolModel *m, int32_t id, size_t *n) {
    const SmolVocab *v = &m->vocab;
    *n = 0;
    if ((uint32_t)id >= v->n_tokens) return "";
    for (uint32_t i = 0; i < v->n_special; i++) {
        const uint8_t *row = v->special + SPECIAL_BYTES * (size_t)i;
        if (get_u32(row) == (uint32_t)id && get_u32(row + 4) == CONTROL) return "";
    }
    return (const char *)token_bytes(v, (uint32_t)id, n);
}

// ---- pre-tokenizer ----

// The end of the character at s[i] and its class. The end of the text counts as a number: both end a piece.
static size_t char_end(const uint8_t *s, size_t i, size_t end, int *class) {
    uint32_t c;
    *class = NUMBER;
    if (i == end) return i;
    int length = utf8_decode(s + i, end - i, &c);  // > 0: the text was checked
    *class = class_of(c);
    return i + (size_t)length;
}

// Where the run of characters of a class (not NUMBER) that begins at s[i] ends.
static size_t run_end(const uint8_t *s, size_t i, size_t end, int class) {
    int here;
    for (;;) {
        size_t next = char_end(s, i, end, &here);
        if (here != class) return i;
        i = next;
    }
}

// The length of 's|'t|'re|'ve|'m|'ll|'d at s[0 .. n - 1], or 0.
static size_t contraction(const uint8_t *s, size_t n) {
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (s[0] != '\'') return 0;
    for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
        size_t length = strlen(endings[k]);
        if (length < n && memcmp(s + 1, endings[k], length) == 0) return length + 1;
    }
    return 0;
}

// The end of the word that begins at s[i], i < end. The Digits pre-tokenizer makes each number a piece of its own, and
// every piece is then split by GPT-2's pattern,
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// so its \p{N}+ finds one number and no space before it, and its look-ahead does not see a number.
static size_t word_end(const uint8_t *s, size_t i, size_t end) {
    int class, after;
    size_t next = char_end(s, i, end, &class);
    if (class == NUMBER) return next;
    size_t length = contraction(s + i, end - i);
    if (length) return i + length;
    if (s[i] == ' ') {
        char_end(s, next, end, &after);
        if (after == LETTER || after == OTHER) return run_end(s, next, end, after);
    }
    if (class != SPACE) return run_end(s, next, end, class);
    // White space before a word leaves its last character to that word, unless it has no other.
    size_t last = i, stop = next;
    for (;;) {
        next = char_end(s, stop, end, &after);
        if (after != SPACE) break;
        last = stop;
        stop = next;
    }
    return after == NUMBER || last == i ? stop : last;
}

// ---- byte-pair encoding ----

// A word of n places, at first a token each. A token that grows to the right keeps its first place. The pair of the
// lowest rank is found by a tournament (Knuth 5.2.3) with n leaves: node k plays the winners of its children 2 k and
// 2 k + 1 against each other, and node 1 is the final. So a word takes n log n steps, however long it is.
typedef struct {
    size_t n;
    int32_t *ids;      // (n) the token that begins here
    uint32_t *span;    // (n) its number of places, kept at its first and its last place to step both ways
    uint32_t *rank;    // (n) of the pair that it makes with the next token; NO_PAIR if none, or if no token begins here
    uint32_t *winner;  // (n) place of the lowest rank below node k, the leftmost of equals
} Word;

static int take_word(Word *w, SmolArena *arena, size_t n, SmolErr *err) {
    size_t bytes;
    if (n > INT32_MAX || !mul_fits(n, 3 * sizeof(uint32_t), &bytes))
        return fail(err, SMOL_E_LIMIT, "a prompt of %z bytes is too long to tokenize", n);
    w->span = arena_take(arena, bytes, "tokenizer", err);
    if (!w->span) return arena->base ? err->code : 0;
    w->rank = w->span + n;
    w->winner = w->rank + n;
    return 0;
}

// Node k's winner, from its two children; nodes n .. 2 n - 1 are the leaves, the places themselves.
static void play(Word *w, size_t k) {
    uint32_t a = 2 * k < w->n ? w->winner[2 * k] : (uint32_t)(2 * k - w->n);
    uint32_t b = 2 * k + 1 < w->n ? w->winner[2 * k + 1] : (uint32_t)(2 * k + 1 - w->n);
    int a_wins = w->rank[a] < w->rank[b] || (w->rank[a] == w->rank[b] && a < b);
    w->winner[k] = a_wins ? a : b;
}

// Sets the rank at a place and plays its way up again, as far as that can change a winner.
static void set_rank(Word *w, size_t i, uint32_t rank) {
    w->rank[i] = rank;
    for (size_t k = (i + w->n) / 2; k > 0; k /= 2) {
        uint32_t before = w->winner[k];
        play(w, k);
        if (w->winner[k] == before && before != i) break;
    }
}

// The rank of the pair that begins at place i.
static uint32_t pair_rank(const SmolVocab *v, const Word *w, size_t i) {
    size_t next = i + w->span[i];
    const uint8_t *merge = next < w->n ? find_merge(v, w->ids[i], w->ids[next]) : NULL;
    return merge ? get_u32(merge + 8) : NO_PAIR;
}

static void merge_word(const SmolVocab *v, Word *w) {
    for (size_t i = 0; i < w->n; i++) w->span[i] = 1;
    for (size_t i = 0; i < w->n; i++) w->rank[i] = pair_rank(v, w, i);
    for (size_t k = w->n - 1; k > 0; k--) play(w, k);
    for (;;) {
        size_t i = w->winner[1];
        if (w->rank[i] == NO_PAIR) return;
        size_t next = i + w->span[i];
        uint32_t span = w->span[i] + w->span[next];
        w->ids[i] = (int32_t)get_u32(find_merge(v, w->ids[i], w->ids[next]) + 12);
        w->span[i] = w->span[i + span - 1] = span;
        set_rank(w, next, NO_PAIR);
        set_rank(w, i, pair_rank(v, w, i));
        if (i == 0) continue;
        size_t left = i - w->span[i - 1];
        set_rank(w, left, pair_rank(v, w, left));
    }
}

// Tokens of the word s[0 .. n - 1], worked out in place in ids, which has room for n; returns how many they are.
static size_t encode_word(const SmolVocab *v, const uint8_t *s, size_t n, int32_t *ids, Word *w) {
    w->n = 0;
    w->ids = ids;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = get_u32(v->byte_id + 4 * (size_t)s[i]);
        if (id != NO_TOKEN) ids[w->n++] = (int32_t)id;  // the reference drops such bytes, too
    }
    if (w->n < 2) return w->n;
    merge_word(v, w);
    size_t n_ids = 0;
    for (size_t i = 0; i < w->n; i += w->span[i]) ids[n_ids++] = ids[i];
    return n_ids;
}

// The same for text without control tokens, word by word.
static size_t encode_text(const SmolVocab *v, const uint8_t *s, size_t n, int32_t *ids, Word *w) {
    size_t n_ids = 0;
    for (size_t i = 0; i < n;) {
        size_t next = word_end(s, i, n);
        n_ids += encode_word(v, s + i, next - i, ids + n_ids, w);
        i = next;
    }
    return n_ids;
}

// ---- control tokens ----

// The length of the longest added token that s[0 .. n - 1] begins with, or 0.
static size_t match_special(const SmolVocab *v, const uint8_t *s, size_t n, int32_t *id) {
    size_t best = 0;
    for (uint32_t i = 0; i < v->n_special; i++) {
        uint32_t candidate = get_u32(v->special + SPECIAL_BYTES * (size_t)i);
        size_t length;
        const uint8_t *text = token_bytes(v, candidate, &length);
        if (length <= best || length > n || memcmp(text, s, length) != 0) continue;
        best = length;
        *id = (int32_t)candidate;
    }
    return best;
}

static int check_prompt(const SmolPrompt *p, SmolErr *err) {
    size_t valid = utf8_valid((const uint8_t *)p->text, p->n_text), end = 0;
    if (p->n_user && !p->user) return fail(err, SMOL_E_LIMIT, "the prompt has %z user texts and no room for them", p->n_user);
    if (valid < p->n_text) return fail(err, SMOL_E_FORMAT, "the prompt is no UTF-8 from byte %z on", valid);
    for (size_t k = 0; k < p->n_user; k++) {
        if (p->user[k].begin < end || p->user[k].end < p->user[k].begin || p->user[k].end > p->n_text)
            return fail(err, SMOL_E_FORMAT, "the prompt's user span %z is out of order or out of range", k);
        end = p->user[k].end;
    }
    return 0;
}

size_t smol_tokenize_bytes(const SmolModel *m, size_t n_text) {
    (void)m;
    SmolArena count = {0};
    SmolErr err;
    Word w;
    return take_word(&w, &count, n_text, &err) ? SIZE_MAX : count.used;
}

long smol_tokenize(const SmolModel *m, const SmolPrompt *prompt, int32_t *ids, SmolArena *scratch, SmolErr *err) {
    const SmolVocab *v = &m->vocab;
    const uint8_t *text = (const uint8_t *)prompt->text;
    size_t mark = scratch->used;
    Word w = {0};
    int code = check_prompt(prompt, err);
    if (!code) code = take_word(&w, scratch, prompt->n_text, err);
    if (!code && !w.span) code = fail(err, SMOL_E_MEMORY, "the tokenizer needs scratch memory");
    if (code) return code;
    if (prompt->n_text == 0) return 0;

    uint8_t first[256] = {0};  // bytes that an added token begins with
    size_t n;
    for (uint32_t i = 0; i < v->n_special; i++)
        first[*token_bytes(v, get_u32(v->special + SPECIAL_BYTES * (size_t)i), &n)] = 1;

    size_t n_ids = 0, begin = 0, i = 0, k = 0;  // text[begin ..] waits, text[i] is looked at, user[k] lies ahead
    while (i < prompt->n_text) {
        size_t trusted = k < prompt->n_user ? prompt->user[k].begin : prompt->n_text;
        int32_t id = 0;
        if (i == trusted) {
            i = prompt->user[k++].end;
        } else if (!first[text[i]] || !(n = match_special(v, text + i, trusted - i, &id))) {
            i++;
        } else {
            n_ids += encode_text(v, text + begin, i - begin, ids + n_ids, &w);
            ids[n_ids++] = id;
            begin = i += n;
        }
    }
    n_ids += encode_text(v, text + begin, i - begin, ids + n_ids, &w);
    scratch->used = mark;
    return (long)n_ids;
}

// ---- prompts ----

// Appends to a prompt; after the first error it only keeps that.
typedef struct {
    SmolPrompt *out;
    SmolErr *err;
    int code;
} Writer;

static Writer begin_prompt(SmolPrompt *out, SmolErr *err) {
    out->n_text = out->n_user = 0;
    return (Writer){out, err, 0};
}

static void put_bytes(Writer *w, const char *s, size_t n) {
    SmolPrompt *p = w->out;
    if (w->code) return;
    if (n > (p->text ? p->text_cap : SIZE_MAX) - p->n_text) {
        w->code = fail(w->err, SMOL_E_LIMIT, "the prompt does not fit in %z bytes", p->text_cap);
        return;
    }
    if (p->text) memcpy(p->text + p->n_text, s, n);
    p->n_text += n;
}

static void put(Writer *w, const char *s) { put_bytes(w, s, strlen(s)); }

// Text from outside. What is no UTF-8 becomes U+FFFD here, where the text may grow, so that smol_tokenize need not.
// user 1: it is marked as the user's.
static void put_text(Writer *w, const char *s, size_t n, int user) {
    SmolPrompt *p = w->out;
    size_t begin = p->n_text;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int length = utf8_decode((const uint8_t *)s + i, n - i, &c);
        if (length > 0)
            put_bytes(w, s + i, (size_t)length);
        else
            put(w, "\xef\xbf\xbd");
        i += (size_t)(length > 0 ? length : -length);
    }
    if (w->code || !user || p->n_text == begin) return;
    if (p->user && p->n_user >= p->user_cap) {
        w->code = fail(w->err, SMOL_E_LIMIT, "the prompt has more than %z user texts", p->user_cap);
        return;
    }
    if (p->user) p->user[p->n_user] = (SmolSpan){begin, p->n_text};
    p->n_user++;
}

static void put_tile(Writer *w, const SmolConfig *c, const char *name) {
    put(w, "<fake_token_around_image>");
    put(w, name);
    for (int i = 0; i < c->image_seq_len; i++) put(w, "<image>");
}

// What SmolVLMProcessor puts in the place of a picture. The tiles of a row end with a newline; the view of the whole
// picture comes last and alone is closed.
static void put_picture(Writer *w, const SmolConfig *c, const SmolTiling *t) {
    for (int row = 1; row <= t->rows; row++) {
        for (int col = 1; col <= t->cols; col++) {
            char name[48];
            format_text(name, sizeof name, "<row_%d_col_%d>", row, col);
            put_tile(w, c, name);
        }
        put(w, "\n");
    }
    if (t->rows > 0) put(w, "\n");
    put_tile(w, c, "<global-img>");
    put(w, "<fake_token_around_image>");
}

static void put_number(Writer *w, int n) {
    char digits[16];
    format_text(digits, sizeof digits, "%d", n);
    put(w, digits);
}

// At least two digits.
static void put_two_digits(Writer *w, int n) {
    if (n < 10) put(w, "0");
    put_number(w, n);
}

// 1 .. 999 in English, as num2words writes it: "twenty-one", "one hundred and one".
static void put_words(Writer *w, int n) {
    static const char *const small[] = {
        "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
    static const char *const tens[] = {
        "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"};
    if (n >= 100) {
        put(w, small[n / 100]);
        put(w, n % 100 ? " hundred and " : " hundred");
        n %= 100;
    }
    if (n >= 20) {
        put(w, tens[n / 10]);
        if (n % 10) put(w, "-");
        n %= 10;
    }
    put(w, small[n]);
}

// As Python writes a timedelta: "0:01:40", "1 day, 0:00:00".
static void put_duration(Writer *w, int64_t seconds) {
    int days = (int)(seconds / 86400), left = (int)(seconds % 86400);
    if (days > 0) {
        put_number(w, days);
        put(w, days == 1 ? " day, " : " days, ");
    }
    put_number(w, left / 3600);
    put(w, ":");
    put_two_digits(w, left / 60 % 60);
    put(w, ":");
    put_two_digits(w, left % 60);
}

// What SmolVLMProcessor puts in the place of a video. Minutes are not wrapped at 60.
static void put_video(Writer *w, const SmolConfig *c, const SmolVideo *v) {
    const SmolTiling one_tile = {0};
    const double most = 1e11;  // so that minutes and days fit in an int
    int good = v->n_frames >= 1 && v->n_frames <= 999 && v->duration >= 0 && v->duration < most;
    for (int i = 0; good && i < v->n_frames; i++) good = v->seconds[i] >= 0 && v->seconds[i] < most;
    if (!good) {
        w->code = fail(w->err, SMOL_E_LIMIT, "a video has 1 to 999 frames and less than 10^11 seconds");
        return;
    }
    put(w, "You are provided the following series of ");
    put_words(w, v->n_frames);
    put(w, " frames from a ");
    put_duration(w, (int64_t)v->duration);
    put(w, " [H:MM:SS] video.\n");
    for (int i = 0; i < v->n_frames; i++) {
        int64_t second = (int64_t)v->seconds[i];
        put(w, "\nFrame from ");
        put_two_digits(w, (int)(second / 60));
        put(w, ":");
        put_two_digits(w, (int)(second % 60));
        put(w, ":");
        put_picture(w, c, &one_tile);
    }
    put(w, "\n\n");
}

// The next <image> mark of a text, or its end.
static size_t find_mark(const char *s, size_t i, size_t n) {
    while (i < n && (n - i < MARK_BYTES || memcmp(s + i, MARK, MARK_BYTES) != 0)) i++;
    return i;
}

// Marks count only in a message that has pictures; without any, <image> is text like other text.
static int count_marks(const SmolMessage *m) {
    int n = 0;
    if (m->n_pictures == 0) return 0;
    for (size_t i = 0; (i = find_mark(m->text, i, m->n_text)) < m->n_text; i += MARK_BYTES) n++;
    return n;
}

// Pictures or a video, and text. The pictures stand where the text marks their places, or before it.
static void put_content(Writer *w, const SmolConfig *c, const SmolMessage *m, int user) {
    int n_marks = count_marks(m);
    if (m->video && m->n_pictures) {
        w->code = fail(w->err, SMOL_E_LIMIT, "a message has pictures or a video, not both");
        return;
    }
    if (m->video) put_video(w, c, m->video);
    if (n_marks && n_marks != m->n_pictures) {
        w->code = fail(w->err, SMOL_E_LIMIT, "<image> marks: %d, pictures: %d; there must be as many marks as pictures, or none", n_marks,
                       m->n_pictures);
        return;
    }
    for (int k = n_marks; k < m->n_pictures; k++) put_picture(w, c, &m->pictures[k]);
    size_t begin = 0;
    for (int k = 0; k < n_marks; k++) {
        size_t mark = find_mark(m->text, begin, m->n_text);
        put_text(w, m->text + begin, mark - begin, user);
        put_picture(w, c, &m->pictures[k]);
        begin = mark + MARK_BYTES;
    }
    if (begin < m->n_text) put_text(w, m->text + begin, m->n_text - begin, user);  // no text may be NULL
}

static int begins_with_picture(const SmolMessage *m) {
    return m->n_pictures > 0 && (count_marks(m) == 0 || find_mark(m->text, 0, m->n_text) == 0);
}

int smol_prompt_chat(const SmolModel *m, const SmolMessage *messages, int n_messages, SmolPrompt *out, SmolErr *err) {
    static const char *const roles[][2] = {{"system", "System"}, {"user", "User"}, {"assistant", "Assistant"}};
    if (m->config.template_kind != TEMPLATE_SMOLVLM)
        return fail(err, SMOL_E_FORMAT, "this model has no chat template that smol.c knows: use --raw");
    Writer w = begin_prompt(out, err);
    put(&w, "<|im_start|>");  // once, not per message
    for (int i = 0; i < n_messages; i++) {
        const SmolMessage *message = &messages[i];
        size_t r = 0;
        while (r < 3 && strcmp(message->role, roles[r][0]) != 0) r++;
        if (r == 3) return fail(err, SMOL_E_FORMAT, "unknown role %s: use system, user or assistant", message->role);
        put(&w, roles[r][1]);
        put(&w, begins_with_picture(message) ? ":" : ": ");
        put_content(&w, &m->config, message, 1);
        put(&w, "<end_of_utterance>\n");
    }
    put(&w, "Assistant:");
    return w.code;
}

int smol_prompt_raw(const SmolModel *m, const SmolMessage *message, int special, SmolPrompt *out, SmolErr *err) {
    Writer w = begin_prompt(out, err);
    put_content(&w, &m->config, message, !special);
    return w.code;
}
