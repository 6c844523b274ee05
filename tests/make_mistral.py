"""Makes the fixtures of tests/test_tokenizer.c for Mistral's tokenizers: golden/tekken.*, golden/sentencepiece.* and
golden/chats.tsv.

Two small vocabularies are trained on the lines of make_tokenizer.py, one with Tekken's pattern, one by SentencePiece, and
given the control tokens of the real ones. The ids are those that mistral-common makes of texts and chats with them (for
ChatML, which it does not have, `tokenizers` with the small vocabulary of make_tokenizer.py). Nothing in the fixtures comes
from smol.c.

    python tests/make_mistral.py [FOLDER]

A line of a .tsv of texts: the text in hexadecimal, the ids, and the span begin-end that came from a user, all of it. A line of
chats.tsv: name of the section, number of the template, role and text in hexadecimal by turns, the ids.
"""

import base64
import io
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import sentencepiece
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "export")]
import make_tokenizer  # noqa: E402
import template  # noqa: E402
import tokenizer as exporter  # noqa: E402

CONTROL = exporter.TEKKEN_SPECIAL
LOOK_ALIKES = ["[INST]", "[/INST]", "</s>", "<s>", "[SYSTEM_PROMPT]", "[REF_1]", "[REF_1", "<0x0A>", "\u2581", " \u2581 ",
               "/\n", "\r\n//", "HTTPServer", "aBC", "\u01c5a", "\u02b0", "A\u0301B", "\u0301", "5\u0301", "!\n/x", "\n \n  x", "  \t",
               "\U00011de1x"]
WORDS = make_tokenizer.WORDS + LOOK_ALIKES
ROLES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}


# ---- two small tokenizers ----

def train_tekken(path):
    """tekken.json of 700 tokens, 20 of them special; the ranks are the order in which training found the tokens."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(exporter.TEKKEN_PATTERN), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = exporter.byte_alphabet()
    tok.train_from_iterator([make_tokenizer.CORPUS] * 3, trainers.BpeTrainer(
        vocab_size=680, initial_alphabet=list(alphabet), show_progress=False))
    learned = sorted((i, bytes(alphabet[c] for c in text)) for text, i in tok.get_vocab().items())
    words = [bytes([b]) for b in range(256)] + [raw for _, raw in learned if len(raw) > 1]
    vocab = [{"rank": i, "token_bytes": base64.b64encode(raw).decode(), "token_str": None} for i, raw in enumerate(words)]
    config = {"pattern": exporter.TEKKEN_PATTERN, "num_vocab_tokens": len(vocab),
              "default_vocab_size": len(vocab) + len(CONTROL), "default_num_special_tokens": len(CONTROL), "version": "v7"}
    path.write_text(json.dumps({"config": config, "vocab": vocab}))
    return config["default_vocab_size"]


def train_sentencepiece(path):
    """tokenizer.model.v3 with the settings of the real one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(make_tokenizer.CORPUS.splitlines()), model_writer=model, model_type="bpe", vocab_size=780,
        character_coverage=1.0, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
        control_symbols=[t for t in CONTROL if t not in ("<unk>", "<s>", "</s>", "<pad>")],
        user_defined_symbols=["[REF_1]", "[REF_12]"])
    path.write_bytes(model.getvalue())
    return 780


# ---- what mistral-common makes of texts and chats ----

def texts(rng):
    yield from ["", " ", "  ", "e" * 300, " " * 40, "the " * 30, "a" + " " * 40 + "b", *make_tokenizer.PROMPTS, *WORDS]
    for _ in range(300):
        yield "".join(rng.choices(WORDS, k=rng.randint(2, 9)))


def chats(rng):
    def text():
        return "".join(rng.choices(WORDS, k=rng.randint(1, 5)))

    for n in range(24):
        chat = [("system", text())] if n % 2 else []
        for _ in range(n % 10):
            chat += [("user", text())] * rng.choice([1, 1, 2]) + [("assistant", text() + rng.choice([".", ". ", ".\n "]))]
        yield chat + [("user", text())]


def mistral_chat(mistral, chat):
    request = ChatCompletionRequest(messages=[ROLES[role](content=text) for role, text in chat])
    return mistral.encode_chat_completion(request).tokens


def chatml_chats(rng):
    """Pairs (chat, ids). Spans of users' texts are found by their lengths, as the template writes nothing of its own kind."""
    tok = make_tokenizer.train()
    plain = Tokenizer.from_str(json.dumps({**json.loads(tok.to_str()), "added_tokens": []}))
    for chat in chats(rng):
        text, spans = template.smollm2_chat(chat, True), []
        at = len(template.smollm2_chat([chat[0]], False)) - len(template.chatml_chat([chat[0]], False))
        for role, content in chat:
            at += len(f"<|im_start|>{role}\n")
            spans.append((at, at + len(content)))
            at += len(content) + len("<|im_end|>\n")
        yield chat, make_tokenizer.reference_ids(tok, plain, text, [s for s in spans if s[0] < s[1]])


def ids_of(ids):
    return " ".join(map(str, ids))


def chat_line(name, kind, chat, ids):
    turns = " ".join(f"{role} {text.encode().hex()}" for role, text in chat)
    return "\t".join([name, str(kind), turns, ids_of(ids)]) + "\n"


def make_section(folder, name, path, size):
    """NAME.bin and NAME.tsv; returns mistral-common's tokenizer."""
    Path(folder, f"{name}.bin").write_bytes(exporter.tokenizer_section(path, size))
    mistral = MistralTokenizer.from_file(str(path))
    with open(os.path.join(folder, f"{name}.tsv"), "w", encoding="ascii", newline="\n") as f:
        for text in texts(random.Random(1)):
            ids = mistral.instruct_tokenizer.tokenizer.encode(text, bos=False, eos=False)
            raw = text.encode()
            f.write("\t".join([raw.hex(), ids_of(ids), f"0-{len(raw)}"]) + "\n")
    return mistral


def main(folder):
    with tempfile.TemporaryDirectory() as temporary, \
            open(os.path.join(folder, "chats.tsv"), "w", encoding="ascii", newline="\n") as f:
        for name, file, train, kind in (("tekken", "tekken.json", train_tekken, template.MISTRAL_V7),
                                        ("sentencepiece", "tokenizer.model.v3", train_sentencepiece, template.MISTRAL_V3)):
            path = Path(temporary) / file
            mistral = make_section(folder, name, path, train(path))
            f.writelines(chat_line(name, kind, chat, mistral_chat(mistral, chat)) for chat in chats(random.Random(2)))
        f.writelines(chat_line("tokenizer", template.SMOLLM2, chat, ids) for chat, ids in chatml_chats(random.Random(2)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "golden"))
