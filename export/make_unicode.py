"""Writes unicode.h: the character classes that SmolLM2's pre-tokenizer asks for, as the reference itself sees them.

Two libraries inside `tokenizers` answer, each with its own version of Unicode: Rust's char::is_numeric decides what the
Digits pre-tokenizer isolates, Oniguruma's \\p{L}, \\p{N} and \\s what the GPT-2 pattern matches. Every code point is
put to both, so the table holds their answers and not those of this Python's unicodedata.

    python export/make_unicode.py > unicode.h
"""

import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

OTHER, LETTER, NUMBER, SPACE = range(4)  # the order of the enum below

HEADER = """\
// unicode.h: character classes of the pre-tokenizer. Made by export/make_unicode.py; do not edit.
//
// Asked of tokenizers {version}, code point by code point: letters are \\p{{L}} and white space is \\s of the GPT-2
// pattern (Oniguruma), numbers are what the Digits pre-tokenizer isolates (Rust's char::is_numeric: Nd, Nl, No). The
// classes are disjoint: {letters} letters, {numbers} numbers ({left_out} of them unknown to Oniguruma's \\p{{N}}),
// {spaces} white space characters.

#ifndef UNICODE_H
#define UNICODE_H

#include <stdint.h>

enum {{ OTHER, LETTER, NUMBER, SPACE }};

// Where runs of one class begin, ascending, each up to the next. The last hex digit is the class, the others are the
// code point: 0x411 says that LETTER begins at U+0041.
static const uint32_t class_runs[{count}] = {{
"""


def matches(text, pattern):
    """Positions in text of the characters that match: Split with "removed" returns what lies between them."""
    kept = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)
    return set(range(len(text))) - {i for _, (begin, end) in kept for i in range(begin, end)}


def isolated(text):
    """Positions of the characters that Digits isolates. With a letter on either side only a number stands alone."""
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a" + "a".join(text) + "a")
    return {begin // 2 for _, (begin, end) in pieces if end - begin == 1 and begin % 2 == 1}


def classify():
    """A list of (code point, class), and the number of numbers that only Rust knows."""
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    text = "".join(map(chr, points))
    letters, spaces, numbers = matches(text, r"\p{L}"), matches(text, r"\s"), isolated(text)
    pattern_numbers = matches(text, r"\p{N}")
    if letters & spaces or letters & numbers or spaces & numbers:
        sys.exit("make_unicode.py: the classes overlap: tokenizer.c takes them to be disjoint")
    if not pattern_numbers <= numbers:
        sys.exit("make_unicode.py: Digits leaves numbers to the pattern: tokenizer.c takes it to isolate all")
    classes = [(c, LETTER if i in letters else NUMBER if i in numbers else SPACE if i in spaces else OTHER)
               for i, c in enumerate(points)]
    return classes, len(numbers - pattern_numbers)


def main():
    classes, left_out = classify()
    runs = [b for a, b in zip([(0, None), *classes], classes) if a[1] != b[1]]
    count = [sum(k == kind for _, k in classes) for kind in range(4)]
    print(HEADER.format(version=tokenizers.__version__, letters=count[LETTER], numbers=count[NUMBER],
                        spaces=count[SPACE], left_out=left_out, count=len(runs)), end="")
    cells = [f"0x{c << 4 | kind:x}," for c, kind in runs]
    line = "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 118:
            print(line)
            line = "   "
        line += " " + cell
    print(line + "\n};\n\n#endif")


if __name__ == "__main__":
    main()
