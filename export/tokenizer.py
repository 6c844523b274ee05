"""A tokenizer's file to the tokenizer section of a .smol file (FORMAT.md).

    tokenizer.json     what the `tokenizers` library writes: SmolLM2's and SmolVLM's byte-level BPE, Tekken, SentencePiece
    tekken.json        Mistral's own form of Tekken
    tokenizer.model    SentencePiece, a protocol buffer

The engine does three pipelines and no other, so everything in a file that could change an id is compared with them, and
anything unknown is an error.

    python export/tokenizer.py FILE VOCAB_SIZE OUT     writes the section alone, for tests
"""

import base64
import json
import os
import re
import struct
import sys
from dataclasses import dataclass, field

NO_TOKEN = 0xFFFFFFFF
SMOLLM, TEKKEN, SENTENCEPIECE = 1, 2, 3  # the section's pretokenizer
CONTROL, USER_DEFINED = 1, 2  # flags of an added token


def require(condition, message):
    if not condition:
        raise ValueError(message)


# ---- the section ----

@dataclass
class Vocabulary:
    """What the section holds. tokens: the bytes of every id, None where there is none."""

    pretokenizer: int
    tokens: list
    byte_id: list  # 256 ids
    merges: list  # rows (left, right, rank, result)
    special: dict  # id to flags
    chars: dict = field(default_factory=dict)  # code point to id
    bos: int = None  # the token that the reference's tokenizer puts before a text

    def pack(self):
        offsets = [0]
        for t in self.tokens:
            offsets.append(offsets[-1] + len(t or b""))
        first = 0 if self.bos is None else self.bos + 1
        numbers = [len(self.tokens), len(self.merges), len(self.special), self.pretokenizer, offsets[-1], len(self.chars), first, 0,
                   *self.byte_id, *offsets]
        for table in (self.merges, self.special.items(), self.chars.items()):
            numbers += [n for row in sorted(table) for n in row]
        return struct.pack(f"<{len(numbers)}I", *numbers) + b"".join(t or b"" for t in self.tokens)


def byte_ids(ids):
    """The token of each single byte, from a dict of bytes to id."""
    return [ids.get(bytes([b]), NO_TOKEN) for b in range(256)]


def all_splits(ids, order):
    """A merge for every way to make a token out of two others: for libraries that join whatever gives a token, and so have no
    list of merges. ids: bytes to id; order: of an id, what is joined first has the least, and equals have equal ranks."""
    rows = []
    for token, i in ids.items():
        halves = ((ids.get(token[:k]), ids.get(token[k:])) for k in range(1, len(token)))
        rows += [(left, right, i) for left, right in halves if left is not None and right is not None]
    ranks = {value: rank for rank, value in enumerate(sorted({order[i] for _, _, i in rows}))}
    return [(left, right, ranks[order[i]], i) for left, right, i in rows]


def check_reachable(ids, merges):
    """`tokenizers` with ignore_merges and tiktoken take a word that is a token as it is; the engine must get there by merges."""
    joined = {(left, right): (rank, result) for left, right, rank, result in merges}
    for token, i in ids.items():
        parts = [ids[bytes([b])] for b in token]
        while len(parts) > 1:
            pairs = [(joined.get(pair, (NO_TOKEN, 0)), k) for k, pair in enumerate(zip(parts, parts[1:]))]
            (rank, result), k = min(pairs, key=lambda p: (p[0][0], p[1]))
            require(rank != NO_TOKEN, f"no merges lead to the token {token!r}")
            parts[k:k + 2] = [result]
        require(parts == [i], f"merges lead past the token {token!r}")


# ---- tokenizer.json ----

TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# Name and value of every part that makes a pipeline; trim_offsets changes no id.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PRE_TOKENIZER = {
    "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "trim_offsets": True}],
}
TEKKEN_STEPS = [
    {"type": "Split", "pattern": {"Regex": TEKKEN_PATTERN}, "behavior": "Isolated", "invert": False},
    {**BYTE_LEVEL, "use_regex": False},
]
# SentencePiece has two forms here. The second puts no space before a text that begins with one; mistral-common, whose
# tokenizer it is, does, and so does the template of the chat, which writes that space itself.
PREPEND = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
METASPACES = [{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
              for scheme in ("first", "always")]

# What every other part must be. A missing key counts as None: old files leave out keys that are off.
OFF_AT_TOP = ("truncation", "padding")
OFF_IN_MODEL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
OFF_IN_ADDED = ("single_word", "lstrip", "rstrip", "normalized")
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def byte_alphabet():
    """GPT-2's printable character for each byte (openai/gpt-2, encoder.py): dict of character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


def without_offsets(step):
    return {key: value for key, value in step.items() if key != "trim_offsets"} if isinstance(step, dict) else step


def pipeline_of(tok):
    """Which of the engine's pipelines the parts around the vocabulary make, or an error that names the part that fits none."""
    pre, normalizer, decoder, model = tok.get("pre_tokenizer"), tok.get("normalizer"), tok.get("decoder"), tok["model"]
    if model.get("byte_fallback"):
        prepended = normalizer == PREPEND and pre is None or normalizer is None and pre in METASPACES
        require(prepended, f"byte_fallback, normalizer {normalizer} and pre_tokenizer {pre} are not SentencePiece's pipeline")
        require(not model.get("ignore_merges"), "model.ignore_merges with byte_fallback is not supported")
        return SENTENCEPIECE
    require(normalizer is None, f"normalizer {normalizer} is not supported")
    steps = [without_offsets(s) for s in pre["pretokenizers"]] if isinstance(pre, dict) and "pretokenizers" in pre else []
    digits = [without_offsets(s) for s in PRE_TOKENIZER["pretokenizers"]]
    require(steps in (digits, TEKKEN_STEPS), f"pre_tokenizer {pre} is not SmolLM2's (Digits, then ByteLevel) nor Tekken's")
    require(isinstance(decoder, dict) and decoder.get("type") == "ByteLevel", f"decoder {decoder} is not ByteLevel")
    unknown, ignore = model.get("unk_token"), model.get("ignore_merges")
    require(unknown in (None, ""), f"model.unk_token {unknown} is not supported")
    require(steps == TEKKEN_STEPS or not ignore, f"model.ignore_merges {ignore} is not supported")
    return TEKKEN if steps == TEKKEN_STEPS else SMOLLM


def check_pipeline(tok):
    """Everything that no pipeline has is off."""
    require(isinstance(tok.get("model"), dict), "it has no model")
    model = tok["model"]
    require(model.get("type") == "BPE", f"model type {model.get('type')} is not BPE")
    for key in OFF_AT_TOP:
        require(tok.get(key) is None, f"{key} {tok.get(key)} is not supported")
    for key in OFF_IN_MODEL:
        require(model.get(key) in (None, ""), f"model.{key} {model.get(key)} is not supported")
    require(isinstance(model.get("vocab"), dict), "model.vocab is missing")
    require(isinstance(model.get("merges"), list), "model.merges is missing")


def first_token(post):
    """The id of the token that the post_processor puts before a text, or None. ByteLevel there changes offsets only."""
    steps = post.get("processors") if isinstance(post, dict) and post.get("type") == "Sequence" else [post]
    templates = [s for s in steps if s is not None and not (isinstance(s, dict) and s.get("type") == "ByteLevel")]
    if not templates:
        return None
    single = templates[0].get("single") if len(templates) == 1 and templates[0].get("type") == "TemplateProcessing" else None
    if single == [TEXT]:
        return None
    begins = isinstance(single, list) and len(single) == 2 and "SpecialToken" in single[0] and single[1] == TEXT
    require(begins, f"post_processor {post} is not supported")
    ids = templates[0]["special_tokens"][single[0]["SpecialToken"]["id"]]["ids"]
    require(len(ids) == 1, f"post_processor {post} is not supported")
    return ids[0]


def puts_first(i):
    """The post_processor that puts a token before a text; None: none."""
    single = [{"SpecialToken": {"id": "first", "type_id": 0}}, TEXT]
    return None if i is None else {"type": "TemplateProcessing", "single": single, "special_tokens": {"first": {"ids": [i]}}}


def add_token(tokens, text, i):
    require(isinstance(i, int) and 0 <= i < len(tokens), f"token {text!r} has id {i}, vocab_size is {len(tokens)}")
    require(tokens[i] is None, f"two tokens have id {i}")
    tokens[i] = text


def read_added(tok, tokens):
    """Puts the added tokens into tokens; returns their flags by id."""
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
    return special


def read_merges(tok, to_bytes, ids):
    """Rows (left, right, rank, result). Older files write a merge as one string with a space."""
    rows = {}
    for rank, merge in enumerate(tok["model"]["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        require(isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair),
                f"merge {rank} is {merge!r}, not a pair")
        left, right = (to_bytes(p) for p in pair)
        known = None not in (left, right) and {left, right, left + right} <= ids.keys()
        require(known, f"merge {rank} {pair} joins or gives a token that is not in the vocabulary")
        key = (ids[left], ids[right])
        require(key not in rows, f"merge {rank} {pair} is listed twice")
        rows[key] = (*key, rank, ids[left + right])
    return list(rows.values())


def byte_level(tok, vocab_size, pretokenizer):
    """SmolLM2 and Tekken: every token in GPT-2's alphabet, but for the added ones."""
    alphabet = byte_alphabet()

    def to_bytes(text):
        return bytes(alphabet[c] for c in text) if text and all(c in alphabet for c in text) else None

    tokens, ids, added = [None] * vocab_size, {}, {a.get("id"): a.get("content") for a in tok.get("added_tokens") or []}
    for text, i in tok["model"]["vocab"].items():
        if added.get(i) == text and pretokenizer == TEKKEN:
            continue  # listed in both places, and no other token can become one of these
        raw = to_bytes(text)
        require(raw is not None, f"token {text!r} is not in GPT-2's byte alphabet")
        add_token(tokens, raw, i)
        ids[raw] = i
    special = read_added(tok, tokens)
    merges = read_merges(tok, to_bytes, ids)
    if tok["model"].get("ignore_merges"):
        check_reachable(ids, merges)
    return Vocabulary(pretokenizer, tokens, byte_ids(ids), merges, special)


def sentencepiece_json(tok, vocab_size):
    """SentencePiece's pieces, in the form that transformers gives them."""
    added = {a.get("id") for a in tok.get("added_tokens") or []}
    tokens, ids, byte_id = [None] * vocab_size, {}, [NO_TOKEN] * 256
    for text, i in tok["model"]["vocab"].items():
        if i in added:
            continue
        byte = byte_piece(text)
        add_token(tokens, piece_bytes(text) if byte is None else bytes([byte]), i)
        if byte is None:
            ids[tokens[i]] = i
        else:
            byte_id[byte] = i
    special = read_added(tok, tokens)
    merges = read_merges(tok, piece_bytes, ids)
    return Vocabulary(SENTENCEPIECE, tokens, byte_id, merges, special, single_characters(ids, byte_id))


def tokenizer_json(tok, vocab_size):
    check_pipeline(tok)
    pipeline = pipeline_of(tok)
    v = sentencepiece_json(tok, vocab_size) if pipeline == SENTENCEPIECE else byte_level(tok, vocab_size, pipeline)
    v.bos = first_token(tok.get("post_processor"))
    return v


# ---- tekken.json ----

# Of files that do not list them, which are those up to version 7.
TEKKEN_SPECIAL = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS] [IMG] "
    "<pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]").split()


def tekken(data, vocab_size):
    """The first ids are the special tokens, then come those of the vocabulary, by rank; it lists more than are used."""
    config = data["config"]
    require(config.get("pattern") == TEKKEN_PATTERN, f"its pattern is not the one that smol.c knows: {config.get('pattern')}")
    n_special, size = config["default_num_special_tokens"], config["default_vocab_size"]
    require(0 < n_special < size <= vocab_size, f"{size} tokens, {n_special} of them special, and vocab_size is {vocab_size}")
    names = data.get("special_tokens")
    names = TEKKEN_SPECIAL if names is None else [t["token_str"] for t in sorted(names, key=lambda t: t["rank"])]
    names = names + [f"<SPECIAL_{i}>" for i in range(len(names), n_special)]
    words = [base64.b64decode(t["token_bytes"]) for t in data["vocab"][:size - n_special]]
    ids = {raw: n_special + rank for rank, raw in enumerate(words)}
    require(len(names) == n_special and len(ids) == size - n_special, "it lists tokens twice, or not all")
    require(all(bytes([b]) in ids for b in range(256)), "a byte has no token")
    merges = all_splits(ids, {i: i for i in ids.values()})
    check_reachable(ids, merges)
    tokens = [name.encode() for name in names] + words + [None] * (vocab_size - size)
    return Vocabulary(TEKKEN, tokens, byte_ids(ids), merges, dict.fromkeys(range(n_special), CONTROL), bos=names.index("<s>"))


# ---- SentencePiece ----

NORMAL, UNKNOWN, CONTROL_PIECE, USER_PIECE, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of a piece, here and in GGUF files


def byte_piece(text):
    found = re.fullmatch("<0x([0-9A-F]{2})>", text)
    return int(found[1], 16) if found else None


def piece_bytes(text):
    """U+2581 stands for a space. The engine cuts a text before every space that follows another character."""
    require(re.fullmatch("\u2581*[^\u2581]*", text), f"the piece {text!r} has a space after another character")
    return text.replace("\u2581", " ").encode()


def single_characters(ids, byte_id):
    """Every character of a piece must be one itself, or merges would not lead to the piece."""
    require(NO_TOKEN not in byte_id, "a byte has no token")
    chars = {ord(raw.decode()): i for raw, i in ids.items() if len(raw.decode()) == 1}
    for raw in ids:
        require(all(ord(c) in chars for c in raw.decode()), f"the piece {raw.decode()!r} has a character that is no piece")
    return chars


def pieces(table, vocab_size, bos):
    """table: (text, score, type) of each id. What has the highest score is joined first; equal scores make equal ranks."""
    require(len(table) <= vocab_size, f"{len(table)} pieces, but vocab_size is {vocab_size}")
    tokens, ids, byte_id, special = [None] * vocab_size, {}, [NO_TOKEN] * 256, {}
    for i, (text, _, kind) in enumerate(table):
        if kind == BYTE:
            byte = byte_piece(text)
            require(byte is not None, f"the byte {text!r} is not written as one")
            tokens[i] = bytes([byte])
            byte_id[byte] = i
        elif kind == NORMAL:
            tokens[i] = piece_bytes(text)
            require(tokens[i] not in ids, f"the piece {text!r} is there twice")
            ids[tokens[i]] = i
        elif kind in (UNKNOWN, CONTROL_PIECE, USER_PIECE):
            require(text and "\u2581" not in text, f"the piece {text!r} has a space")
            tokens[i] = text.encode()
            special[i] = USER_DEFINED if kind == USER_PIECE else CONTROL
        else:
            require(kind == UNUSED, f"the piece {text!r} is of type {kind}")
    merges = all_splits(ids, {i: -table[i][1] for i in ids.values()})
    return Vocabulary(SENTENCEPIECE, tokens, byte_id, merges, special, single_characters(ids, byte_id), bos)


def proto_fields(data):
    """(number, value) of a protocol buffer's message; a value is an int or the bytes within."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            require(at < len(data) and shift < 64, "damaged or cut off")
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        require(kind in (1, 2, 5), "damaged, or no SentencePiece model")
        n = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        require(n <= len(data) - at, "damaged or cut off")
        at += n
        yield key >> 3, data[at - n:at]


# sentencepiece_model.proto: number of each field that matters, its name, what it must be, and what it is where it is not there.
TRAINER = {3: ("model_type", 2, 1), 35: ("byte_fallback", 1, 0), 24: ("treat_whitespace_as_suffix", 0, 0)}
NORMALIZER = {2: ("precompiled_charsmap", b"", b""), 3: ("add_dummy_prefix", 1, 1), 4: ("remove_extra_whitespaces", 0, 1),
              5: ("escape_whitespaces", 1, 1)}


def check_spec(message, wanted):
    found = dict(proto_fields(message))
    for number, (name, value, default) in wanted.items():
        require(found.get(number, default) == value, f"{name} is {found.get(number, default)!r}; only {value!r} is supported")


def sentencepiece_model(data, vocab_size):
    table, specs = [], {2: b"", 3: b""}
    for number, value in proto_fields(data):
        if number == 1:
            piece = dict(proto_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            table.append((piece.get(1, b"").decode(), score, piece.get(3, NORMAL)))
        elif number in specs:
            specs[number] = value
    check_spec(specs[2], TRAINER)
    check_spec(specs[3], NORMALIZER)
    texts = [text for text, _, _ in table]
    return pieces(table, vocab_size, texts.index("<s>") if "<s>" in texts else None)


# ---- which it is ----

# Mistral's own form first: the other is made from it.
NAMES = ("tekken.json", "tokenizer.model.v7", "tokenizer.model.v3", "tokenizer.json", "tokenizer.model")


def tokenizer_file(folder):
    """What tokenizer_section takes, from a folder: a path, or the object that stands for tokenizer.json."""
    name = next((n for n in NAMES if folder.has(n)), "tokenizer.json")
    return folder.made[name] if name in folder.made else folder.file(name)


def read_file(path):
    """A JSON object, or bytes."""
    with open(path, "rb") as f:
        data = f.read()
    if ".model" in os.path.basename(path):
        return data
    try:
        value = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"not JSON: {e}") from None
    require(isinstance(value, dict), "not a JSON object")
    return value


def read_vocabulary(source, vocab_size):
    if isinstance(source, bytes):
        return sentencepiece_model(source, vocab_size)
    if "pieces" in source:  # of a GGUF file
        return pieces(source["pieces"], vocab_size, source["bos"])
    if "config" in source and "vocab" in source:
        return tekken(source, vocab_size)
    return tokenizer_json(source, vocab_size)


def tokenizer_section(source, vocab_size):
    """The section's bytes. Raises ValueError, one line, on anything that the engine would not tokenize alike. source: the path
    of a tokenizer's file, or what stands in a tokenizer.json."""
    name = "tokenizer.json" if isinstance(source, dict) else os.path.basename(source)
    try:
        return read_vocabulary(source if isinstance(source, dict) else read_file(source), vocab_size).pack()
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


def puts_space(section):
    """Whether a section's tokenizer puts a space before a text."""
    return section[12] == SENTENCEPIECE


if __name__ == "__main__":
    section = tokenizer_section(sys.argv[1], int(sys.argv[2]))
    with open(sys.argv[3], "wb") as out:
        out.write(section)
