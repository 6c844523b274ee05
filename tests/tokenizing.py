"""The engine's tokenizer at the end of a pipe (tests/tokenize_text.c), and texts to try it on."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_programs(folder):
    """tokenize_text.c, with sanitizers and without: {"checked": path, "fast": path}."""
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{ROOT}"]
    engine = ("tokenizer", "pretokenizer", "template", "support")
    sources = [ROOT / "tests" / "tokenize_text.c", *(ROOT / f"{name}.c" for name in engine)]
    programs = {}
    for name, more in ("checked", SANITIZE), ("fast", []):
        programs[name] = folder / name
        command = [os.environ.get("CC", "gcc"), *flags, *more, *sources, "-o", programs[name]]
        subprocess.run([str(c) for c in command], check=True)
    return programs


class Ours:
    """A section in the engine."""

    def __init__(self, programs, section, vocab_size, image_seq_len=0, template=1):
        self.programs, self.section, self.settings = programs, section, (vocab_size, image_seq_len, template)

    def ask(self, lines, program="checked"):
        command = [self.programs[program], self.section, *self.settings]
        run = subprocess.run([str(c) for c in command], input="\n".join(lines) + "\n", capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-300:] + run.stderr[-3000:]
        answers = run.stdout.split("\n")
        assert len(answers) == len(lines) + 1 and answers[-1] == ""
        return answers[:-1]

    def ids(self, texts, spans=None, program="checked"):
        """Ids of each text (str or bytes); spans, in characters, came from users."""
        lines = []
        for k, text in enumerate(texts):
            places = [p for span in (spans[k] if spans else []) for p in span]
            lines.append(" ".join(["t", hexa(text), *(str(len(text[:p].encode())) for p in places)]))
        return [numbers(a) for a in self.ask(lines, program)]

    def user_ids(self, texts, program="checked"):
        """Ids of texts that users typed."""
        return self.ids(texts, [[(0, len(text))] for text in texts], program)


def hexa(text):
    return (text.encode() if isinstance(text, str) else text).hex() or "-"


def numbers(answer):
    assert not answer.startswith("error"), answer
    return [int(n) for n in answer.split()]


ALPHABETS = [
    [chr(c) for c in range(128)],
    list("aeinorst THE'smdlvr"),
    list(" \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u2029\u202f\u3000\ufeff"),
    list("0123456789²½٣Ⅷ一〇८𝟘\U00011de1\U00016ff4"),
    list("äößéñçœşğАбвЯяαβωאבתابتกขคकखग한국어中文测试あア"),
    list("😀🚀👍🏽👨\u200d👩\u200d👧\ufe0f🇩🇪\u0301\u0308\u20e3"),
    list("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~…—“”«»€"),
]


def random_character(rng):
    kind = rng.randrange(10)
    if kind < 8:
        return rng.choice(ALPHABETS[kind % len(ALPHABETS)])
    c = rng.randrange(0x3100 if kind == 8 else 0x110000)
    return chr(c) if not 0xD800 <= c <= 0xDFFF else "\ufffd"


def random_text(rng, tokens, words):
    """Runs of characters of one kind, words and control tokens between them."""
    parts = []
    for _ in range(rng.randint(0, 8)):
        kind = rng.randrange(6)
        if kind == 0:
            parts.append(rng.choice(tokens))
        elif kind == 1:
            parts.append(rng.choice(words))
        elif kind < 4:
            parts.append("".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(1, 6))))
        else:
            parts.append("".join(random_character(rng) for _ in range(rng.randint(1, 8))))
    return "".join(parts)
