"""Makes the fixture of tests/test_tokenizer.c: golden/tokenizer.bin and golden/tokenizer.tsv.

A byte-level BPE of 700 tokens with SmolLM2's pipeline and SmolVLM's control tokens, trained by `tokenizers` on the
lines below, and what `tokenizers` itself makes of some hundreds of texts. Nothing in the fixture comes from smol.c. A
few bytes are left out of the vocabulary, as in the real one: `tokenizers` drops them without a word.

    python tests/make_tokenizer.py [FOLDER]

A line of the .tsv: the text in hexadecimal, the ids, and the spans begin-end (in bytes) that came from a user.
"""

import json
import os
import random
import sys
import tempfile

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, decoders, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "export"))
from tokenizer import byte_alphabet, tokenizer_section  # noqa: E402

CORPUS = """
User: What is in this picture? Assistant: A red car stands on the street, and a man is walking his dog past it.
User: How many people are there? Assistant: There are three people; I can't see the others, they're behind the wall.
The quick brown fox jumps over the lazy dog. We'll see whether it's true, but I've heard that he'd rather not say.
This is a photograph of a kitchen with a table and four chairs. The total on the receipt is 12.50 and the date is 2026.
In the image there is a bar chart that shows the number of visitors per month; the highest value was in July.
    for (int i = 0; i < n; i++) {\r\n\t\tsum += x[i];  // the end\r\n    }\n\n\n        return sum;\n
Was ist auf dem Bild zu sehen? Ein grüner Frosch sitzt in der Straße und größer als übliche Frösche ist er nicht.
Qu'est-ce que c'est ? L'été dernier, à la plage, où les élèves déjà étaient arrivés, ça a coûté très cher.
Что изображено на этой картинке? На картинке изображена большая собака, которая бежит по дороге.
这张图片里有什么? 图片里有一只猫。 これは何の写真ですか。 写真には猫がいます。 이 사진에는 무엇이 있나요?
ما هذا الشيء في الصورة هذا هو الكتاب इस तस्वीर में क्या है यह एक किताब है
😀😀🚀🚀👍👍🏽 ½ ² ٣ Ⅷ — “quoted” … ‘single’
"""

MISSING = {0x04, 0x06, 0x13, 0x7F, 0x8E, 0xC0, 0xC1, 0xC8, *range(0xF1, 0x100)}
FIRST = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
ROWS = [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
LAST = ["<global-img>", *ROWS, "<fake_token_around_image>", "<image>", "<end_of_utterance>"]

WORDS = ["the", " the", "The picture", " don't", "we'll", "I've", "they're", "'s", "'S", "''s", " 'd", "can't've",
         "x's1",
         "Straße", " größer", "été", "картинке", " собака", "图片", "猫です", "무엇", "किताब", "الصورة", "😀", "👍🏽", "🚀",
         " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\v\f",
         "0", "1", "42", " 7", "3.14", "²", "½", "٣", "Ⅷ", "一", "\U0001d7d8", "\U00011de1", "\u3007",
         "!", "...", " --", "(", "=>", " +=", "\"", "—", "\u0301", "\u200d", "\ufeff", "\ufffd",
         "\0", "\x04", "\x06\x13", "\x7f", "\u020e", "th\u020ee", "\u0200", "\U00040000", "\U0010ffff", "\u0600",
         *FIRST, "<global-img>", "<row_1_col_2>", "<row_4_col_1>", "<fake_token_around_image>", "<image>", "<image",
         "<imag<image>e>", "<end_of_utterance>", "<row_1_col_1", "<|im_", "<note>", "<notes>", "<no", "<", ">"]

PROMPTS = ["", "Hello, world!", "<|im_start|>User: What is the capital of France?<end_of_utterance>\nAssistant:",
           "<|im_start|>User:<image>Can you describe this image?<end_of_utterance>\nAssistant:",
           "a  b", "a  1", "a 1", "a \n b", "a\n\n", "\n\n<image>", "\n\n\n<image>", "\n\ntext", "   <image>   ",
           " <image> ",
           "\n\n<fake_token_around_image><global-img><image><image><fake_token_around_image>", "crlf\r\nline",
           "tabs\t\tx", "we'll've been there", "x²+y³=z¼", "Room 101, Floor 42", "   1   2", "1 2  3   4",
           "<imagine> is not <image>ry",
           "e" * 300, " " * 300, "\n" * 100 + "x", "ab" * 200, "thethethe" * 40, "<" * 50 + "image>", "0123456789" * 5]


def train():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    alphabet = [c for c, b in byte_alphabet().items() if b not in MISSING]
    size = 700 - len(LAST) - 2
    tok.train_from_iterator([CORPUS] * 3, trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=FIRST, initial_alphabet=alphabet, show_progress=False))
    tok.add_special_tokens(LAST)
    tok.add_tokens([AddedToken(text, normalized=False, special=False) for text in ("<note>", "<not")])  # text, not control
    assert all(tok.token_to_id(c) is None for c, b in byte_alphabet().items() if b in MISSING)
    return tok


def reference_ids(tok, plain, text, spans):
    """Ids when control tokens count only outside the spans (in characters); plain has none, they are found here."""
    if not spans:
        return tok.encode(text).ids
    special = {t.content: i for i, t in tok.get_added_tokens_decoder().items()}
    ids, start, i = [], 0, 0
    while i < len(text):
        inside = [e for b, e in spans if b <= i < e]
        limit = min([b for b, _ in spans if b > i], default=len(text))
        hits = [] if inside else [s for s in special if text.startswith(s, i) and i + len(s) <= limit]
        if hits:
            best = max(hits, key=len)
            ids += plain.encode(text[start:i]).ids + [special[best]]
            start = i = i + len(best)
        else:
            i = inside[0] if inside else i + 1
    return ids + plain.encode(text[start:]).ids


def texts():
    """Pairs (text, spans in characters): fixed prompts, then seeded sentences of odd words, a third with user spans."""
    rng = random.Random(1)
    yield from ((p, []) for p in PROMPTS)
    yield from ((w, []) for w in WORDS)
    yield from (("User: " + w + "<end_of_utterance>\n", [(6, 6 + len(w))]) for w in WORDS if "<" in w)
    for n in range(300):
        words = rng.choices(WORDS, k=rng.randint(2, 9))
        text = "".join(words)
        cut = sorted(rng.sample(range(len(text) + 1), 4)) if n % 3 == 0 and len(text) > 4 else []
        yield text, list(zip(cut[::2], cut[1::2]))


def main(folder):
    tok = train()
    plain = json.loads(tok.to_str())
    plain["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(plain))
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "tokenizer.json")
        tok.save(path)
        section = tokenizer_section(path, tok.get_vocab_size())
    with open(os.path.join(folder, "tokenizer.bin"), "wb") as f:
        f.write(section)
    with open(os.path.join(folder, "tokenizer.tsv"), "w", encoding="ascii", newline="\n") as f:
        for text, spans in texts():
            ids = reference_ids(tok, plain, text, spans)
            byte_spans = [f"{len(text[:b].encode())}-{len(text[:e].encode())}" for b, e in spans]
            f.write("\t".join([text.encode().hex(), " ".join(map(str, ids)), " ".join(byte_spans)]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "golden"))
