"""Writes unicode.h: the character classes that the pre-tokenizers ask for, as the reference itself sees them.

Two libraries inside `tokenizers` answer, each with its own version of Unicode: Rust's char::is_numeric decides what the
Digits pre-tokenizer isolates, Oniguruma's \\p{L}, \\p{N}, \\p{M}, \\s what the patterns of GPT-2 and Tekken match. Every
code point is put to both, so the table holds their answers and not those of this Python's unicodedata.

    python export/make_unicode.py > unicode.h
"""

import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

# The order of the enum below, and what asks for a class; the first pattern that matches counts.
PATTERNS = {"UPPER": r"[\p{Lu}\p{Lt}]", "LOWER": r"\p{Ll}", "CASELESS": r"[\p{Lm}\p{Lo}]", "MARK": r"\p{M}",
            "NUMBER": r"\p{N}", "SPACE": r"\s"}

HEADER = """\
// unicode.h: character classes of the pre-tokenizers. Made by export/make_unicode.py; do not edit.
//
// Asked of tokenizers {version}, code point by code point: UPPER is [\\p{{Lu}}\\p{{Lt}}], LOWER \\p{{Ll}}, CASELESS
// [\\p{{Lm}}\\p{{Lo}}], MARK \\p{{M}}, NUMBER \\p{{N}}, SPACE \\s of the patterns (Oniguruma). The classes are disjoint: {L}
// letters ({UPPER} upper, {LOWER} lower), {MARK} marks, {NUMBER} numbers, {SPACE} white space characters. RUST_NUMBER:
// {RUST_NUMBER} that are numbers only to the Digits pre-tokenizer (Rust's char::is_numeric), and nothing to the patterns.

#ifndef UNICODE_H
#define UNICODE_H

#include <stdint.h>

enum {{ OTHER, UPPER, LOWER, CASELESS, MARK, NUMBER, RUST_NUMBER, SPACE }};

// Where runs of one class begin, ascending, each up to the next. The last hex digit is the class, the others are the
// code point: 0x411 says that UPPER begins at U+0041.
static const uint32_t class_runs[{count}] = {{
"""

CLASSES = ["OTHER", "UPPER", "LOWER", "CASELESS", "MARK", "NUMBER", "RUST_NUMBER", "SPACE"]


def matches(text, pattern):
    """Positions in text of the characters that match: Split with "removed" returns what lies between them."""
    kept = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)
    return set(range(len(text))) - {i for _, (begin, end) in kept for i in range(begin, end)}


def isolated(text):
    """Positions of the characters that Digits isolates. With a letter on either side only a number stands alone."""
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a" + "a".join(text) + "a")
    return {begin // 2 for _, (begin, end) in pieces if end - begin == 1 and begin % 2 == 1}


def classify():
    """A list of (code point, class)."""
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    text = "".join(map(chr, points))
    class_of = {}
    for name, pattern in PATTERNS.items():
        found = matches(text, pattern)
        if found & class_of.keys():
            sys.exit(f"make_unicode.py: {name} overlaps another class: pretokenizer.c takes them to be disjoint")
        class_of.update(dict.fromkeys(found, name))
    numbers = isolated(text)
    if any(name == "NUMBER" and i not in numbers or name != "NUMBER" and i in numbers for i, name in class_of.items()):
        sys.exit("make_unicode.py: Digits leaves numbers to the pattern, or takes letters: pretokenizer.c expects neither")
    class_of.update(dict.fromkeys(numbers - class_of.keys(), "RUST_NUMBER"))
    return [(c, class_of.get(i, "OTHER")) for i, c in enumerate(points)]


def main():
    classes = classify()
    runs = [b for a, b in zip([(0, None), *classes], classes) if a[1] != b[1]]
    counts = {name: sum(k == name for _, k in classes) for name in CLASSES}
    letters = counts["UPPER"] + counts["LOWER"] + counts["CASELESS"]
    print(HEADER.format(version=tokenizers.__version__, L=letters, count=len(runs), **counts), end="")
    cells = [f"0x{c << 4 | CLASSES.index(kind):x}," for c, kind in runs]
    line = "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 118:
            print(line)
            line = "   "
        line += " " + cell
    print(line + "\n};\n\n#endif")


if __name__ == "__main__":
    main()
