// pretokenizer.c: where the words of a text end, before byte-pair encoding joins what is within them.
//
// Three patterns, each written out as the few steps that a regular expression's engine would take with it. What is a
// letter, a mark, a number or a space is a matter of tables (unicode.h) that hold the reference's own answers.

#include "internal.h"
#include "unicode.h"

#include <string.h>

enum { LINE_BREAK = SPACE + 1, N_CLASSES };  // \r and \n, which are white space, too

// Sets of classes, one bit each. END is the class of what follows the last character.
enum {
    END = 1 << N_CLASSES,
    SPACES = 1 << SPACE | 1 << LINE_BREAK,
    NUMBERS = 1 << NUMBER | 1 << RUST_NUMBER,
    LETTERS = 1 << UPPER | 1 << LOWER | 1 << CASELESS,
    OTHERS = 1 << OTHER | 1 << MARK,
    TITLES = 1 << UPPER | 1 << CASELESS | 1 << MARK,  // Tekken's \p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}
    SMALLS = 1 << LOWER | 1 << CASELESS | 1 << MARK,  // and its \p{Ll}\p{Lm}\p{Lo}\p{M}
};

static int class_of(uint32_t c) {
    if (c == '\r' || c == '\n') return LINE_BREAK;
    // c is in one of the runs low .. high - 1; ASCII is in the first twelve.
    size_t low = 0, high = c < 0x80 ? 12 : sizeof class_runs / sizeof *class_runs;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (class_runs[middle] >> 4 <= c)
            low = middle;
        else
            high = middle;
    }
    return (int)(class_runs[low] & 15);
}

// The end of the character at s[i]; *set is its class as a set.
static size_t char_end(const uint8_t *s, size_t i, size_t end, int *set) {
    uint32_t c;
    *set = END;
    if (i == end) return i;
    int length = utf8_decode(s + i, end - i, &c);  // > 0: the text was checked
    *set = 1 << class_of(c);
    return i + (size_t)length;
}

// Where the run of characters of a set of classes that begins at s[i] ends.
static size_t run_end(const uint8_t *s, size_t i, size_t end, int set) {
    int here;
    for (;;) {
        size_t next = char_end(s, i, end, &here);
        if (!(here & set)) return i;
        i = next;
    }
}

// The end of a run of white space that begins at s[i]: \s+(?!\S)|\s+. Before a word it leaves the last character to
// that word, unless it has no other. What lets it keep all is in the set alone: the end of the text at least.
static size_t space_end(const uint8_t *s, size_t i, size_t end, int alone) {
    size_t last = i, stop = i;
    for (;;) {
        int after;
        size_t next = char_end(s, stop, end, &after);
        if (!(after & SPACES)) return after & alone || last == i ? stop : last;
        last = stop;
        stop = next;
    }
}

// ---- SmolLM2 ----

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

// The Digits pre-tokenizer makes each number a piece of its own, and every piece is then split by GPT-2's pattern,
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// so its \p{N}+ finds one number and no space before it, and its look-ahead does not see a number.
static size_t smollm_end(const uint8_t *s, size_t i, size_t end) {
    int set, after;
    size_t next = char_end(s, i, end, &set);
    if (set & NUMBERS) return next;
    size_t length = contraction(s + i, end - i);
    if (length) return i + length;
    if (s[i] == ' ') {
        char_end(s, next, end, &after);
        if (after & LETTERS) return run_end(s, next, end, LETTERS);
        if (after & OTHERS) return run_end(s, next, end, OTHERS);
    }
    if (set & SPACES) return space_end(s, i, end, NUMBERS | END);
    return run_end(s, next, end, set & LETTERS ? LETTERS : OTHERS);
}

// ---- Tekken ----

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ at s[i]: where it ends, or i if it does not match. The
// first run takes all it can; if nothing is left for the second, it gives back up to the last character that fits both.
static size_t small_word(const uint8_t *s, size_t i, size_t end) {
    size_t titles = run_end(s, i, end, TITLES), smalls = run_end(s, titles, end, SMALLS);
    if (smalls > titles) return smalls;
    while (titles > i) {
        size_t last = titles - 1;
        while ((s[last] & 0xc0) == 0x80) last--;
        if (run_end(s, last, titles, SMALLS) == titles) return titles;
        titles = last;
    }
    return i;
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
static size_t title_word(const uint8_t *s, size_t i, size_t end) {
    size_t titles = run_end(s, i, end, TITLES);
    return titles > i ? run_end(s, titles, end, SMALLS) : i;
}

// [^\r\n\p{L}\p{N}]?[...]*[...]+|[^\r\n\p{L}\p{N}]?[...]+[...]*, or i. next is the end of the character at s[i].
static size_t tekken_letters(const uint8_t *s, size_t i, size_t next, size_t end, int set) {
    int prefix = !(set & (1 << LINE_BREAK | LETTERS | 1 << NUMBER));
    size_t stop;
    if (prefix && (stop = small_word(s, next, end)) > next) return stop;
    if ((stop = small_word(s, i, end)) > i) return stop;
    if (prefix && (stop = title_word(s, next, end)) > next) return stop;
    return title_word(s, i, end);
}

// The two alternatives above, then
//     \p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
static size_t tekken_end(const uint8_t *s, size_t i, size_t end) {
    const int symbols = OTHERS | 1 << RUST_NUMBER;  // to this pattern those are no numbers
    int set, after = 0;
    size_t next = char_end(s, i, end, &set), stop = tekken_letters(s, i, next, end, set);
    if (stop > i) return stop;
    if (set & 1 << NUMBER) return next;
    if (s[i] == ' ') char_end(s, next, end, &after);
    if ((set | after) & symbols) {
        stop = run_end(s, next, end, symbols);
        while (stop < end && (s[stop] == '\r' || s[stop] == '\n' || s[stop] == '/')) stop++;
        return stop;
    }
    size_t blank = run_end(s, i, end, SPACES), broken = blank;
    while (broken > i && s[broken - 1] != '\r' && s[broken - 1] != '\n') broken--;
    return broken > i ? broken : space_end(s, i, end, END);
}

// ---- SentencePiece ----

size_t sentencepiece_space(const uint8_t *s, size_t n) {
    if (n > 0 && s[0] == ' ') return 1;
    return n > 2 && memcmp(s, "\xe2\x96\x81", 3) == 0 ? 3 : 0;
}

// SentencePiece has no words, but none of its pieces has a space after another character, so nothing can be joined
// across one, and cutting there keeps words short.
static size_t sentencepiece_end(const uint8_t *s, size_t i, size_t end) {
    size_t n;
    while ((n = sentencepiece_space(s + i, end - i))) i += n;
    while (i < end && !sentencepiece_space(s + i, end - i)) i++;
    return i;
}

size_t word_end(int pretokenizer, const uint8_t *s, size_t i, size_t end) {
    if (pretokenizer == WORDS_TEKKEN) return tekken_end(s, i, end);
    if (pretokenizer == WORDS_SENTENCEPIECE) return sentencepiece_end(s, i, end);
    return smollm_end(s, i, end);
}
