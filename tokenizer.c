// tokenizer.c: text to token ids and back.
//
// Three dialects of byte-pair encoding (FORMAT.md), in the same four steps: control tokens are cut out of the raw text;
// the pre-tokenizer splits what is left into words; the bytes of a word (for SentencePiece its characters) become one
// token each; then the adjacent pair with the lowest rank among the merges becomes one token, again and again, until no
// pair has a merge. The ids of any text are those of the libraries that the models were trained with: `tokenizers`,
// tiktoken and SentencePiece. Only text that the caller vouches for can become control tokens: what a user typed stays
// text, even when it looks like one.

#include "internal.h"

#include <string.h>

enum { SECTION_HEADER = 32, MERGE_BYTES = 16, SPECIAL_BYTES = 8, CHAR_BYTES = 8 };  // FORMAT.md, Tokenizer
enum { CONTROL = 1, USER_DEFINED = 2 };                                             // flags of an added token

static const uint32_t NO_TOKEN = 0xffffffff;  // byte_id of a byte that the vocabulary lacks
static const uint32_t NO_PAIR = 0xffffffff;   // after every rank

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

// ---- vocabulary ----

const uint8_t *vocab_token(const SmolVocab *v, uint32_t id, size_t *n) {
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

// The token of one character, or NO_TOKEN. Rows (code point, id) are sorted.
static uint32_t find_char(const SmolVocab *v, uint32_t c) {
    size_t low = 0, high = v->n_chars;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint8_t *row = v->chars + CHAR_BYTES * middle;
        if (get_u32(row) == c) return get_u32(row + 4);
        if (get_u32(row) < c)
            low = middle + 1;
        else
            high = middle;
    }
    return NO_TOKEN;
}

// The row (id, flags) of the i-th added token.
static const uint8_t *special_row(const SmolVocab *v, uint32_t i) { return v->special + SPECIAL_BYTES * (size_t)i; }

int32_t vocab_special(const SmolVocab *v, const char *text) {
    for (uint32_t i = 0; i < v->n_special; i++) {
        size_t n;
        uint32_t id = get_u32(special_row(v, i));
        const uint8_t *bytes = vocab_token(v, id, &n);
        if (n == strlen(text) && memcmp(bytes, text, n) == 0) return (int32_t)id;
    }
    return -1;
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
        const uint8_t *text = id < v->n_tokens ? vocab_token(v, id, &n) : NULL;
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
        const uint8_t *a = vocab_token(v, left, &n_left), *b = vocab_token(v, right, &n_right);
        const uint8_t *ab = vocab_token(v, result, &n_result);
        if (n_left + n_right != n_result || memcmp(ab, a, n_left) != 0 || memcmp(ab + n_left, b, n_right) != 0)
            return fail(err, SMOL_E_FORMAT, "tokenizer: merge %u does not give the bytes of its pair", i);
    }
    return 0;
}

// A token of one byte would leave no room for the space that SentencePiece puts after it, see smol_tokenize.
static int check_special(const SmolVocab *v, SmolErr *err) {
    size_t shortest = v->pretokenizer == WORDS_SENTENCEPIECE ? 2 : 1;
    for (uint32_t i = 0; i < v->n_special; i++) {
        const uint8_t *row = special_row(v, i);
        uint32_t id = get_u32(row), flags = get_u32(row + 4);
        if (id >= v->n_tokens || flags > USER_DEFINED || (i > 0 && get_u32(row - SPECIAL_BYTES) >= id))
            return fail(err, SMOL_E_FORMAT, "tokenizer: added token %u is out of range or out of order", i);
        size_t n;
        const uint8_t *text = vocab_token(v, id, &n);
        if (n < shortest || utf8_valid(text, n) != n)
            return fail(err, SMOL_E_FORMAT, "tokenizer: added token %u has no text or is no UTF-8", id);
    }
    return 0;
}

static int check_chars(const SmolVocab *v, SmolErr *err) {
    for (uint32_t i = 0; i < v->n_chars; i++) {
        const uint8_t *row = v->chars + CHAR_BYTES * (size_t)i;
        uint32_t c = get_u32(row), id = get_u32(row + 4), own = 0;
        size_t n = 0;
        const uint8_t *text = id < v->n_tokens ? vocab_token(v, id, &n) : NULL;
        if (n == 0 || utf8_decode(text, n, &own) != (int)n || own != c || (i > 0 && get_u32(row - CHAR_BYTES) >= c))
            return fail(err, SMOL_E_FORMAT, "tokenizer: character %u is out of order or not that of its token", i);
    }
    return 0;
}

static int check_header(SmolVocab *v, const uint8_t *bytes, int vocab_size, SmolErr *err) {
    v->n_tokens = get_u32(bytes);
    v->n_merges = get_u32(bytes + 4);
    v->n_special = get_u32(bytes + 8);
    v->pretokenizer = get_u32(bytes + 12);
    v->n_chars = get_u32(bytes + 20);
    v->first_token = get_u32(bytes + 24);
    if (vocab_size < 1 || v->n_tokens != (uint32_t)vocab_size)
        return fail(err, SMOL_E_FORMAT, "tokenizer: %u tokens, but vocab_size is %d", v->n_tokens, vocab_size);
    if (v->pretokenizer < WORDS_SMOLLM || v->pretokenizer > WORDS_SENTENCEPIECE)
        return fail(err, SMOL_E_FORMAT, "tokenizer: pre-tokenizer %u is unknown", v->pretokenizer);
    if (v->first_token > v->n_tokens || get_u32(bytes + 28) || (v->n_chars && v->pretokenizer != WORDS_SENTENCEPIECE))
        return fail(err, SMOL_E_FORMAT, "tokenizer: n_chars %u, first_token %u or the reserved field has no meaning",
                    v->n_chars, v->first_token);
    return 0;
}

int vocab_open(SmolVocab *v, const uint8_t *bytes, size_t n, int vocab_size, SmolErr *err) {
    if (n < SECTION_HEADER) return fail(err, SMOL_E_FORMAT, "tokenizer: cut off, %z bytes", n);
    int code = check_header(v, bytes, vocab_size, err);
    if (code) return code;
    // Every factor is below 2^32, so 64 bits hold the sum.
    uint32_t n_bytes = get_u32(bytes + 16);
    uint64_t offsets = SECTION_HEADER + 256 * 4, merges = offsets + 4 * ((uint64_t)v->n_tokens + 1);
    uint64_t special = merges + MERGE_BYTES * (uint64_t)v->n_merges;
    uint64_t chars = special + SPECIAL_BYTES * (uint64_t)v->n_special;
    uint64_t text = chars + CHAR_BYTES * (uint64_t)v->n_chars;
    if (text + n_bytes != n)
        return fail(err, SMOL_E_FORMAT, "tokenizer: its tables do not add up to its %z bytes", n);
    v->byte_id = bytes + SECTION_HEADER;
    v->token_offset = bytes + offsets;
    v->merges = bytes + merges;
    v->special = bytes + special;
    v->chars = bytes + chars;
    v->bytes = bytes + text;
    code = check_tokens(v, n_bytes, err);
    if (!code) code = check_merges(v, err);
    if (!code) code = check_special(v, err);
    if (!code) code = check_chars(v, err);
    return code;
}

const char *smol_token_name(const SmolModel *m, int32_t id, size_t *n) {
    *n = 0;
    if ((uint32_t)id >= m->vocab.n_tokens) return "";
    return (const char *)vocab_token(&m->vocab, (uint32_t)id, n);
}

const char *smol_token_text(const SmolModel *m, int32_t id, size_t *n) {
    const SmolVocab *v = &m->vocab;
    for (uint32_t i = 0; i < v->n_special; i++) {
        const uint8_t *row = special_row(v, i);
        if (get_u32(row) == (uint32_t)id && get_u32(row + 4) == CONTROL) {
            *n = 0;
            return "";
        }
    }
    return smol_token_name(m, id, n);
}

// ---- byte-pair encoding ----

// The bytes that added tokens begin with.
typedef struct {
    uint8_t first[256], second[256];
} Begins;

// A word of n places, at first a token each. A token that grows to the right keeps its first place. The pair of the
// lowest rank is found by a tournament (Knuth 5.2.3) with n leaves: node k plays the winners of its children 2 k and
// 2 k + 1 against each other, and node 1 is the final. So a word takes n log n steps, however long it is.
typedef struct {
    size_t n;
    int32_t *ids;      // (n) the token that begins here
    uint32_t *span;    // (n) its number of places, kept at its first and its last place to step both ways
    uint32_t *rank;    // (n) of the pair that it makes with the next token; NO_PAIR if none, or if no token begins here
    uint32_t *winner;  // (n) place of the lowest rank below node k, the leftmost of equals
    Begins pieces;     // of the user-defined pieces
} Word;

static int take_word(Word *w, SmolArena *arena, size_t n, SmolErr *err) {
    size_t bytes;
    if (n >= INT32_MAX || !mul_fits(n + 1, 3 * sizeof(uint32_t), &bytes))
        return fail(err, SMOL_E_LIMIT, "a prompt of %z bytes is too long to tokenize", n);
    w->span = arena_take(arena, bytes, "tokenizer", err);
    if (!w->span) return arena->base ? err->code : 0;
    w->rank = w->span + n + 1;
    w->winner = w->rank + n + 1;
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

// Adds a token for each byte.
static void add_bytes(const SmolVocab *v, Word *w, const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t id = get_u32(v->byte_id + 4 * (size_t)s[i]);
        if (id != NO_TOKEN) w->ids[w->n++] = (int32_t)id;  // the reference drops such bytes, too
    }
}

// Adds a token for each character, or for the bytes of one that has none.
static void add_chars(const SmolVocab *v, Word *w, const uint8_t *s, size_t n) {
    size_t length;
    for (size_t i = 0; i < n; i += length) {
        uint32_t c = ' ';
        length = sentencepiece_space(s + i, n - i);
        if (!length) length = (size_t)utf8_decode(s + i, n - i, &c);
        uint32_t id = find_char(v, c);
        if (id == NO_TOKEN) add_bytes(v, w, s + i, length);
        else w->ids[w->n++] = (int32_t)id;
    }
}

// Tokens of the word s[0 .. n - 1], worked out in place in ids, which has room for n, and for one more if a space goes
// before it; returns how many they are.
static size_t encode_word(const SmolVocab *v, const uint8_t *s, size_t n, int space, int32_t *ids, Word *w) {
    w->n = 0;
    w->ids = ids;
    if (space) add_chars(v, w, (const uint8_t *)" ", 1);
    if (v->pretokenizer == WORDS_SENTENCEPIECE) add_chars(v, w, s, n);
    else add_bytes(v, w, s, n);
    if (w->n < 2) return w->n;
    merge_word(v, w);
    size_t n_ids = 0;
    for (size_t i = 0; i < w->n; i += w->span[i]) ids[n_ids++] = ids[i];
    return n_ids;
}

static size_t encode_words(const SmolVocab *v, const uint8_t *s, size_t n, int space, int32_t *ids, Word *w) {
    size_t n_ids = space && n == 0 ? encode_word(v, s, 0, space, ids, w) : 0;
    for (size_t i = 0; i < n; space = 0) {
        size_t next = word_end((int)v->pretokenizer, s, i, n);
        n_ids += encode_word(v, s + i, next - i, space, ids + n_ids, w);
        i = next;
    }
    return n_ids;
}

// ---- added tokens ----

// The length of the longest added token that s[0 .. n - 1] begins with, or 0: of a user-defined piece or of all others.
static size_t match_special(const SmolVocab *v, const uint8_t *s, size_t n, int user_defined, int32_t *id) {
    size_t best = 0;
    for (uint32_t i = 0; i < v->n_special; i++) {
        const uint8_t *row = special_row(v, i);
        if ((get_u32(row + 4) == USER_DEFINED) != user_defined) continue;
        size_t length;
        const uint8_t *text = vocab_token(v, get_u32(row), &length);
        if (length <= best || length > n || memcmp(text, s, length) != 0) continue;
        best = length;
        *id = (int32_t)get_u32(row);
    }
    return best;
}

static void note_begins(const SmolVocab *v, int user_defined, Begins *b) {
    memset(b, 0, sizeof *b);
    for (uint32_t i = 0; i < v->n_special; i++) {
        size_t n;
        const uint8_t *row = special_row(v, i), *text = vocab_token(v, get_u32(row), &n);
        if ((get_u32(row + 4) == USER_DEFINED) != user_defined) continue;
        b->first[text[0]] = 1;
        if (n > 1) b->second[text[1]] = 1;
        else memset(b->second, 1, sizeof b->second);
    }
}

// Whether an added token can begin with s[0 .. n - 1], n >= 1: nearly always not, so that few places need a look at them all.
static int may_begin(const Begins *b, const uint8_t *s, size_t n) { return b->first[s[0]] && (n < 2 || b->second[s[1]]); }

// Tokens of text without control tokens. SentencePiece puts a space before it and keeps its user-defined pieces whole.
static size_t encode_text(const SmolVocab *v, const uint8_t *s, size_t n, int32_t *ids, Word *w) {
    if (v->pretokenizer != WORDS_SENTENCEPIECE) return encode_words(v, s, n, 0, ids, w);
    size_t n_ids = 0, begin = 0, i = 0, length;
    int32_t id = 0;
    if (n == 0) return 0;
    while (i < n) {
        if (!may_begin(&w->pieces, s + i, n - i) || !(length = match_special(v, s + i, n - i, 1, &id))) {
            i++;
            continue;
        }
        n_ids += encode_words(v, s + begin, i - begin, begin == 0, ids + n_ids, w);
        ids[n_ids++] = id;
        begin = i += length;
    }
    return n_ids + encode_words(v, s + begin, i - begin, begin == 0, ids + n_ids, w);
}

// ---- the whole prompt ----

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
    if (code || prompt->n_text == 0) return code;
    code = take_word(&w, scratch, prompt->n_text, err);
    if (!code && !w.span) code = fail(err, SMOL_E_MEMORY, "the tokenizer needs scratch memory");
    if (code) return code;

    Begins control;
    size_t n;
    note_begins(v, 0, &control);
    note_begins(v, 1, &w.pieces);

    size_t n_ids = 0, begin = 0, i = 0, k = 0;  // text[begin ..] waits, text[i] is looked at, user[k] lies ahead
    while (i < prompt->n_text) {
        size_t trusted = k < prompt->n_user ? prompt->user[k].begin : prompt->n_text;
        int32_t id = 0;
        if (i == trusted) {
            i = prompt->user[k++].end;
        } else if (!may_begin(&control, text + i, trusted - i) || !(n = match_special(v, text + i, trusted - i, 0, &id))) {
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

