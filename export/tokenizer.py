"""tokenizer.json to the tokenizer section of a .smol file (FORMAT.md).

Reads what the Hugging Face `tokenizers` library writes for SmolLM2 and SmolVLM: byte-level BPE behind the Digits and
ByteLevel pre-tokenizers. The engine does this one pipeline and no other, so everything in the file that could change an
id is compared with it, and anything unknown is an error.

    python export/tokenizer.py tokenizer.json VOCAB_SIZE OUT     writes the section alone, for tests
"""

import json
import struct
import sys

NO_TOKEN = 0xFFFFFFFF
DIGITS_THEN_GPT2 = 1  # the header's pretokenizer
CONTROL = 1  # flag of an added token

PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}

# What every other part must be. A missing key counts as None: old files leave out keys that are off.
OFF_AT_TOP = {"normalizer": None, "truncation": None, "padding": None}
# transformers 5 saves a post_processor that adds nothing to a text.
ADDS_NOTHING = [{"Sequence": {"id": "A", "type_id": 0}}]
OFF_IN_MODEL = {
    "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "byte_fallback": False, "ignore_merges": False,
}
OFF_IN_ADDED = ("single_word", "lstrip", "rstrip", "normalized")


def byte_alphabet():
    """GPT-2's printable character for each byte (openai/gpt-2, encoder.py): dict of character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


def require(condition, message):
    if not condition:
        raise ValueError(f"tokenizer.json: {message}")


def check_pipeline(tok):
    """Everything around the vocabulary must be the pipeline that tokenizer.c implements."""
    require(isinstance(tok, dict) and isinstance(tok.get("model"), dict), "it has no model")
    for key, off in OFF_AT_TOP.items():
        require(tok.get(key) == off, f"{key} {tok.get(key)} is not supported")
    post = tok.get("post_processor")
    if isinstance(post, dict) and post.get("type") == "TemplateProcessing" and post.get("single") == ADDS_NOTHING:
        post = None
    require(post is None, f"post_processor {post} is not supported")
    pre, decoder, model = tok.get("pre_tokenizer"), tok.get("decoder"), tok["model"]
    require(pre == PRE_TOKENIZER, f"pre_tokenizer {pre} is not SmolLM2's (Digits, then ByteLevel)")
    require(isinstance(decoder, dict) and decoder.get("type") == "ByteLevel", f"decoder {decoder} is not ByteLevel")
    require(model.get("type") == "BPE", f"model type {model.get('type')} is not BPE")
    for key, off in OFF_IN_MODEL.items():
        require(model.get(key) in (None, "", off), f"model.{key} {model.get(key)} is not supported")
    require(isinstance(model.get("vocab"), dict), "model.vocab is missing")
    require(isinstance(model.get("merges"), list), "model.merges is missing")


def read_tokens(tok, vocab_size):
    """The bytes of every id (None where there is no token), and the ids of the base vocabulary by those bytes."""
    alphabet = byte_alphabet()
    tokens, base = [None] * vocab_size, {}
    for text, i in tok["model"]["vocab"].items():
        require(isinstance(i, int) and 0 <= i < vocab_size, f"token {text!r} has id {i}, vocab_size is {vocab_size}")
        require(tokens[i] is None, f"two tokens have id {i}")
        require(text and all(c in alphabet for c in text), f"token {text!r} is not in GPT-2's byte alphabet")
        tokens[i] = bytes(alphabet[c] for c in text)
        base[tokens[i]] = i
    return tokens, base


def read_added(tok, tokens):
    """Puts the added tokens into tokens; returns the list of (id, flags), sorted by id."""
    special = {}
    for a in tok.get("added_tokens") or []:
        text, i = a.get("content"), a.get("id")
        require(isinstance(text, str) and text, f"added token {i} has no text")
        require(isinstance(i, int) and 0 <= i < len(tokens),
                f"added token {text!r} has id {i}, vocab_size is {len(tokens)}")
        for key in OFF_IN_ADDED:
            require(not a.get(key), f"added token {text!r}: {key} is not supported")
        raw = text.encode("utf-8")
        require(i not in special, f"two added tokens have id {i}")
        require(tokens[i] in (None, raw), f"added token {text!r} has the id of another token, {i}")
        require(all(tokens[j] != raw for j in special), f"added token {text!r} is listed twice")
        tokens[i] = raw
        special[i] = CONTROL if a.get("special") else 0
    return sorted(special.items())


def read_merges(tok, base):
    """Rows (left, right, rank, result), sorted by pair. Older files write a merge as one string with a space."""
    alphabet = byte_alphabet()
    rows = {}
    for rank, merge in enumerate(tok["model"]["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        require(isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair),
                f"merge {rank} is {merge!r}, not a pair")
        left, right = (bytes(alphabet.get(c, 0) for c in p) for p in pair)
        known = all(c in alphabet for p in pair for c in p) and {left, right, left + right} <= base.keys()
        require(known, f"merge {rank} {pair} joins or gives a token that is not in the vocabulary")
        key = (base[left], base[right])
        require(key not in rows, f"merge {rank} {pair} is listed twice")
        rows[key] = (*key, rank, base[left + right])
    return [rows[key] for key in sorted(rows)]


def read_json(path):
    with open(path, encoding="utf-8") as f:
        try:
            return json.load(f)
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise ValueError(f"tokenizer.json: not JSON: {e}") from None


def tokenizer_section(source, vocab_size):
    """The section's bytes. Raises ValueError, one line, on anything that the engine would not tokenize alike. source: the path
    of a tokenizer.json, or what stands in one."""
    tok = source if isinstance(source, dict) else read_json(source)
    check_pipeline(tok)
    tokens, base = read_tokens(tok, vocab_size)
    special = read_added(tok, tokens)
    merges = read_merges(tok, base)

    byte_id = [base.get(bytes([b]), NO_TOKEN) for b in range(256)]
    offsets = [0]
    for t in tokens:
        offsets.append(offsets[-1] + len(t or b""))
    header = struct.pack("<8I", vocab_size, len(merges), len(special), DIGITS_THEN_GPT2, offsets[-1], 0, 0, 0)
    numbers = [*byte_id, *offsets, *(v for row in merges for v in row), *(v for row in special for v in row)]
    return header + struct.pack(f"<{len(numbers)}I", *numbers) + b"".join(t or b"" for t in tokens)


if __name__ == "__main__":
    section = tokenizer_section(sys.argv[1], int(sys.argv[2]))
    with open(sys.argv[3], "wb") as out:
        out.write(section)
