"""Mistral's tokenizers and chats against `mistral-common`, which carries the real ones: SentencePiece of version 3 (Mistral
Small 2409) and 7, Tekken (Small 2501 has that of tekken_240718.json, with version 7). And the same as transformers has them.

    python -m pytest -q tests/test_mistral.py                100,000 random texts for each: SMOL_LONG=1
"""

import functools
import inspect
import json
import os
import random
import struct
from pathlib import Path

import mistral_common
import pytest
import transformers
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

import harness
import make_mistral
import text_model
from make_tokenizer import WORDS
from tokenizing import ROOT, Ours, compile_programs, hexa, numbers, random_text

import gguf_file  # export/, which conftest.py puts on the path
import template
import tokenizer as exporter

DATA = Path(mistral_common.__file__).parent / "data"
ASSETS = Path(os.environ.get("SMOL_ASSETS", ROOT.parent / "shared" / "assets"))
needs_assets = pytest.mark.skipif(not (ASSETS / "tokenizer_cases.json").exists(), reason="no tokenizer cases: set SMOL_ASSETS")
N_TEXTS = 100_000 if os.environ.get("SMOL_LONG") else 5_000

SPM, TEKKEN = 32768, 131072  # tokens
FILES = {  # file, tokens, template, what tokenizer_cases.json calls its texts and its chats
    "spm v3": ("mistral_instruct_tokenizer_240323.model.v3", SPM, template.MISTRAL_V3, "spm_v3", "v3_spm"),
    "spm v7": ("mistral_instruct_tokenizer_241114.model.v7", SPM, template.MISTRAL_V7, "spm_v7", "v7_spm"),
    "tekken v3": ("tekken_240718.json", TEKKEN, template.MISTRAL_V3, "tekken", "v3_tekken"),
    "tekken v7": ("tekken_240718.json", TEKKEN, template.MISTRAL_V7, "tekken", "v7_tekken"),
}


# ---- the two sides ----

class Both(Ours):
    """mistral-common's tokenizer of a file, and ours."""

    def __init__(self, programs, folder, name):
        file, size, kind, self.cases, self.chats = FILES[name]
        self.path, self.name, self.size = DATA / file, name, size
        if name == "tekken v7":
            self.path = folder / "tekken.json"
            self.path.write_text((DATA / file).read_text().replace('"version": "v3"', '"version": "v7"'))
        section = folder / f"{name}.bin"
        section.write_bytes(exporter.tokenizer_section(self.path, size))
        super().__init__(programs, section, size, 0, kind)
        self.mistral = MistralTokenizer.from_file(str(self.path))
        self.tok = self.mistral.instruct_tokenizer.tokenizer
        self.control = set(self.specials(1))

    def specials(self, flag):
        """Added tokens of the section with this flag: text to id."""
        data = self.section.read_bytes()
        n_tokens, n_merges, n_special, _, n_bytes, n_chars = struct.unpack_from("<6I", data)
        at = 32 + 1024 + 4 * (n_tokens + 1) + 16 * n_merges
        rows = struct.iter_unpack("<2I", data[at:at + 8 * n_special])
        return [i for i, f in rows if f == flag]

    def encode(self, text):
        return self.tok.encode(text, bos=False, eos=False)

    def chat(self, messages):
        makers = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
        request = ChatCompletionRequest(messages=[makers[role](content=text) for role, text in messages])
        return self.mistral.encode_chat_completion(request).tokens


def our_chats(ours, chats):
    requests = ["c " + " ".join(f"{role} {hexa(text)} ;" for role, text in chat) for chat in chats]
    return [numbers(answer.partition(" | ")[2]) for answer in ours.ask(requests)]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return compile_programs(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="session")
def made(programs, tmp_path_factory):
    """Each is made once, when it is first asked for."""
    folder, found = tmp_path_factory.mktemp("mistral"), {}

    def make(name):
        if name not in found:
            found[name] = Both(programs, folder, name)
        return found[name]
    return make


@pytest.fixture(params=FILES)
def both(request, made):
    return made(request.param)


@pytest.fixture(params=["spm v3", "tekken v7"])
def each(request, made):
    """One of each kind, where versions make no difference."""
    return made(request.param)


# ---- ids ----

LOOK_ALIKES = ["<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]",
               "[IMG]", "[control_8]", "<SPECIAL_20>", "[REFERENCE_DOC_0]", "[REFERENCE_DOC_12]", "[REFERENCE_DOC_", "[REF]",
               "<0x0A>", "[INST", "\u2581", "\u2581\u2581", " \u2581 ", "/\n", "\r\n/", " //", "HTTPServer", "iPhone", "\u01c5",
               "\u02b0", "A\u0301B"]


@pytest.mark.parametrize("name", ["spm v3", "spm v7", "tekken v7"])
def test_random_texts(made, name):
    """What a user typed gives mistral-common's ids, never a control token; their bytes are the text again."""
    rng, both = random.Random(2026), made(name)
    texts = [random_text(rng, LOOK_ALIKES, WORDS) for _ in range(N_TEXTS)]
    got = both.user_ids(texts)
    for text, ids in zip(texts, got):
        assert ids == both.encode(text), repr(text)
        assert not both.control & set(ids), repr(text)
    for text, answer in zip(texts, both.ask(["d " + " ".join(map(str, ids)) for ids in got])):
        joined = bytes.fromhex(answer).decode()
        assert joined == ((" " + text).replace("\u2581", " ") if "spm" in name and text else text), repr(text)


def test_every_character(each):
    """Every code point between letters, doubled, and after a space: its class and its bytes."""
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    texts = ["".join(f"a{chr(c)}{chr(c)}B {chr(c)}.{chr(c)}" for c in points[i:i + 64]) for i in range(0, len(points), 64)]
    for text, ids in zip(texts, each.user_ids(texts, "fast")):
        assert ids == each.encode(text), hex(ord(text[1]))


def test_control_tokens_of_raw_prompts(each):
    """In a trusted text they are found, and what lies between is text of its own; a user's raw text begins with the BOS."""
    text = "[INST] [REFERENCE_DOC_1]two[/INST]</s><s>"
    names = ["[INST]", "[/INST]", "</s>", "<s>"]
    first, last, end, begin = (each.tok.get_special_token(name) for name in names)
    between = each.encode(" [REFERENCE_DOC_1]two")
    assert each.ids([text]) == [[first, *between, last, end, begin]]
    raw = each.ask([f"r 0 {hexa(text)} ;", f"r 1 {hexa(text)} ;"])
    assert [numbers(a.partition(" | ")[2]) for a in raw] == [[1, *each.encode(text)], each.ids([text])[0]]


@needs_assets
def test_cases(both):
    cases = json.loads((ASSETS / "tokenizer_cases.json").read_text(encoding="utf-8"))
    assert both.user_ids([c["text"] for c in cases["plain"]]) == [c["ids"][both.cases] for c in cases["plain"]]
    bad = cases["invalid_utf8"]["cases"]
    answers = both.ask([f"r 0 {c['hex']} ;" for c in bad])
    assert [numbers(a.partition(" | ")[2]) for a in answers] == [[1, *c["ids"][both.cases]] for c in bad]
    chats = [[(m["role"], m["content"]) for m in c["messages"]] for c in cases["chats"]]
    assert our_chats(both, chats) == [c["mistral"][both.chats]["ids"] for c in cases["chats"]]


@needs_assets
@pytest.mark.parametrize("name,file", [("spm v3", "fixtures_v3_spm_Mistral-Small-2409.jsonl"),
                                       ("tekken v7", "fixtures_v7_tekken_like_Mistral-Small-2501.jsonl")])
def test_fixtures(made, name, file):
    records = [json.loads(line) for line in (ASSETS / "tokenizer_mistral" / file).read_bytes().split(b"\n") if line]
    texts, chats = ([r for r in records if kind in r] for kind in ("raw", "messages"))
    assert len(texts) > 10 and len(chats) > 3
    assert made(name).user_ids([r["raw"] for r in texts]) == [r["ids"] for r in texts]
    got = our_chats(made(name), [[(m["role"], m["content"]) for m in r["messages"]] for r in chats])
    assert got == [r["ids"] for r in chats]


@needs_assets
@pytest.mark.parametrize("name", ["blns.txt", "udhr"])
def test_texts(each, name):
    path = ASSETS / "text" / name
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        text = file.read_text(encoding="utf-8")
        lines = [*text.splitlines(keepends=True), text]
        assert each.user_ids(lines) == [each.encode(line) for line in lines], file.name


# ---- chats ----

def random_chat(rng, n_turns, system):
    """Turns of odd texts; an answer of mistral-common's must not be empty."""
    def text():
        return random_text(rng, LOOK_ALIKES, WORDS) or "?"

    chat = [("system", text())] if system else []
    for _ in range(n_turns - 1):
        answer = text() + "." + rng.choice(["", " ", "  \n", "\n "])
        chat += [("user", text())] * rng.choice([1, 1, 1, 2]) + [("assistant", answer)]
    return chat + [("user", text())] * rng.choice([1, 1, 1, 2])


def test_chats(both):
    """Up to ten turns, with and without a system prompt, users who speak twice, answers with blanks at their end."""
    rng = random.Random(11)
    chats = [random_chat(rng, 1 + n % 10, n % 3 > 0) for n in range(300)]
    for chat, ids in zip(chats, our_chats(both, chats)):
        assert ids == both.chat(chat), chat


def test_system_prompts(both):
    """Two of them, one that is empty, and one with nothing to stand in."""
    chats = [[("system", "One."), ("system", "Two."), ("user", "Hi")], [("system", ""), ("user", "Hi")],
             [("system", "One."), ("user", "Hi"), ("system", "Two."), ("user", "Go.")]]
    assert our_chats(both, chats) == [both.chat(c) for c in chats]
    alone = both.ask([f"c system {hexa('One.')} ;"])[0]
    assert ("needs a message of the user" in alone) == both.name.endswith("v3")


# The form of the templates that transformers applies, without their tools.
JINJA_V3 = """\
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m['role'] == 'user' %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + m['content'] + '[/INST]' }}
    {%- elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}
    {%- else %}{{ raise_exception('a role') }}{% endif %}
{%- endfor %}"""
JINJA_V7 = """\
{%- set ours = 'It is ' + strftime_now('%Y-%m-%d') %}
{{- bos_token }}
{%- if messages[0]['role'] != 'system' %}{{ '[SYSTEM_PROMPT]' + ours + '[/SYSTEM_PROMPT]' }}{% endif %}
{%- for m in messages %}
    {%- if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}
    {%- elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}
    {%- else %}{{ m['content'] + eos_token }}{% endif %}
{%- endfor %}"""
JINJA_CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
JINJA_SMOLLM2 = """\
{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def sentencepiece_as_transformers(both, prepended):
    """tokenizer.json of SentencePiece: the merges from transformers' own function; either form of the space before a text."""
    from transformers.convert_slow_tokenizer import generate_merges
    model = both.tok._model
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.vocab_size())]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    normal = {p: i for p, i in vocab.items() if not (model.IsControl(i) or model.IsUnknown(i) or model.IsByte(i))}
    user_defined = {i for i in both.specials(2)}
    scores = {p: model.get_score(i) for p, i in normal.items() if i not in user_defined}
    takes_skip = "skip_tokens" in inspect.signature(generate_merges).parameters
    merges = generate_merges(scores, scores, **({"skip_tokens": []} if takes_skip else {}))
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None))
    if prepended:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
    tok.add_special_tokens([AddedToken(p, normalized=False, special=True) for p, i in vocab.items()
                            if model.IsControl(i) or model.IsUnknown(i) or i in user_defined])
    return tok


def tekken_as_transformers(both):
    """By transformers' converter, which wants the special tokens listed, as files of later versions list them."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from transformers.integrations.mistral.tokenizer import MistralConverter
    data = json.loads(both.path.read_text())
    data["special_tokens"] = [{**t, "token_str": str(t["token_str"].value)} for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    path = both.section.with_suffix(".json")
    path.write_text(json.dumps(data))
    return MistralConverter(str(path)).converted()


@functools.cache
def as_transformers(both, prepended=False):
    return sentencepiece_as_transformers(both, prepended) if "spm" in both.name else tekken_as_transformers(both)


def polite_chats(rng, first):
    """Chats of up to ten turns without texts that look like control tokens, which transformers would take for some."""
    words = [w for w in WORDS if "<" not in w]
    for n in range(100):
        chat = [("system", random_text(rng, words, words) or "?")] if first(n) else []
        for _ in range(n % 10):
            chat += [("user", random_text(rng, words, words) or "?"), ("assistant", random_text(rng, words, words) + ".")]
        yield chat + [("user", random_text(rng, words, words) or "?")]


def applied(tok, jinja, chats):
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", chat_template=jinja)
    return [list(tok.apply_chat_template([{"role": role, "content": text} for role, text in chat], add_generation_prompt=True,
                                         tokenize=True, return_dict=False)) for chat in chats]


@pytest.mark.parametrize("name,jinja", [("spm v3", JINJA_V3), ("tekken v7", JINJA_V7)])
def test_chats_of_transformers(made, name, jinja):
    """apply_chat_template, always with a system prompt: without one these templates add the day's date."""
    both, tok = made(name), as_transformers(made(name))
    chats = [chat for chat in polite_chats(random.Random(5), lambda n: True) if "\u2581" not in str(chat)]
    assert our_chats(both, chats) == applied(tok, jinja, chats)


@needs_assets
@pytest.mark.parametrize("kind,jinja", [(template.CHATML, JINJA_CHATML), (template.SMOLLM2, JINJA_SMOLLM2)])
def test_chatml(programs, tmp_path, kind, jinja):
    """SmolLM2's tokenizer is the beginning of SmolVLM's. Of its template the cases have the ids."""
    path, section = ASSETS / "tokenizer_smolvlm" / "tokenizer.json", tmp_path / "section.bin"
    section.write_bytes(exporter.tokenizer_section(path, 49280))
    ours, tok = Ours(programs, section, 49280, 0, kind), Tokenizer.from_file(str(path))
    chats = list(polite_chats(random.Random(6), lambda n: n % 2))
    assert our_chats(ours, chats) == applied(tok, jinja, chats)
    if kind == template.SMOLLM2:
        cases = json.loads((ASSETS / "tokenizer_cases.json").read_text(encoding="utf-8"))["chats"]
        chats = [[(m["role"], m["content"]) for m in c["messages"]] for c in cases]
        assert our_chats(ours, chats) == [c["smollm2"]["ids_safe"] for c in cases]


# ---- the exporter ----

def test_tokenizer_json(each, programs, tmp_path):
    """The same tokenizer, from the form in which transformers keeps it."""
    rng = random.Random(3)
    texts = [random_text(rng, [t for t in LOOK_ALIKES if "REF" not in t], WORDS) for _ in range(2000)]
    expected = [each.encode(text) for text in texts]
    for prepended in (True, False) if "spm" in each.name else (False,):
        path = tmp_path / f"tokenizer{prepended}.json"
        as_transformers(each, prepended).save(str(path))
        section = tmp_path / "section.bin"
        section.write_bytes(exporter.tokenizer_section(path, each.size))
        assert Ours(programs, section, each.size).user_ids(texts) == expected


def test_gguf(made, tmp_path):
    """SentencePiece's pieces, as GGUF files list them, give the bytes that tokenizer.model gives."""
    both = made("spm v3")
    model = both.tok._model
    user_defined = set(both.specials(2))
    kinds = [2 if model.IsUnknown(i) else 3 if model.IsControl(i) else 6 if model.IsByte(i) else 4 if i in user_defined else 1
             for i in range(model.vocab_size())]
    pieces = [(model.id_to_piece(i), model.get_score(i), kind) for i, kind in enumerate(kinds)]
    assert exporter.tokenizer_section({"pieces": pieces, "bos": 1}, SPM) == both.section.read_bytes()
    assert len(user_defined) == 20


def test_gguf_of_tekken(programs, tmp_path):
    """The small one, with tokens and merges as GGUF files write them."""
    from transformers.integrations.mistral.tokenizer import MistralConverter
    size = make_mistral.train_tekken(tmp_path / "tekken.json")
    data = json.loads((tmp_path / "tekken.json").read_text())
    data["special_tokens"] = [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(exporter.TEKKEN_SPECIAL)]
    (tmp_path / "tekken.json").write_text(json.dumps(data))
    spec = json.loads(MistralConverter(str(tmp_path / "tekken.json")).converted().to_str())
    tokens = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    file = gguf_file.GgufFile.__new__(gguf_file.GgufFile)
    file.name, file.fields = "m.gguf", {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i < 20 else 1 for i in range(size)], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec["model"]["merges"]]}
    ours = []
    for name, source in ("a.bin", file.tokenizer()), ("b.bin", tmp_path / "tekken.json"):
        (tmp_path / name).write_bytes(exporter.tokenizer_section(source, size))
        ours.append(Ours(programs, tmp_path / name, size))
    requests = [f"r 0 {hexa(text)} ;" for text in make_mistral.texts(random.Random(4))]
    assert ours[0].ask(requests) == ours[1].ask(requests)
    file.fields["tokenizer.ggml.pre"] = "gpt-4o"
    with pytest.raises(gguf_file.ExportError, match="not supported"):
        file.tokenizer()


def test_fixture_is_reproduced(tmp_path):
    make_mistral.main(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["chats.tsv", "sentencepiece.bin", "sentencepiece.tsv", "tekken.bin", "tekken.tsv"]
    for name in files:
        assert (tmp_path / name).read_bytes() == (ROOT / "tests" / "golden" / name).read_bytes(), name


class Folder:
    """A folder of the exporter, as far as templates need one."""

    def __init__(self, files):
        self.files, self.made = files, {}

    def has(self, name):
        return name in self.files

    def text(self, name):
        return self.files[name]

    def json(self, name, optional=False):
        return json.loads(self.files.get(name, "{}"))


IN_PARTS = JINJA_V7.replace("m['content']", "m['content'][0]['text']")  # as Small 3.1's
TEMPLATES = [
    ({"chat_template.jinja": JINJA_V3}, True, template.MISTRAL_V3, None),
    ({"chat_template.jinja": JINJA_V3}, False, template.NONE, "--raw"),  # its spaces are SentencePiece's
    ({"chat_template.jinja": JINJA_V3.replace("INST] ", "INST]").replace("' ' +", "")}, False, template.MISTRAL_V3, None),
    ({"chat_template.jinja": JINJA_V7}, False, template.MISTRAL_V7, "date"),
    ({"chat_template.jinja": IN_PARTS}, False, template.MISTRAL_V7, "date"),
    ({"chat_template.jinja": JINJA_V7.replace("{{- bos_token }}", "")}, False, template.NONE, "--raw"),
    ({"chat_template.jinja": JINJA_CHATML}, False, template.CHATML, None),
    ({"chat_template.jinja": JINJA_SMOLLM2}, False, template.SMOLLM2, None),
    ({"chat_template.jinja": JINJA_SMOLLM2.replace("SmolLM,", "Smol,")}, False, template.NONE, "none that smol.c knows"),
    ({"tekken.json": '{"config": {"version": "v7"}}'}, False, template.MISTRAL_V7, None),
    ({"tekken.json": '{"config": {"version": "v99"}}'}, False, template.NONE, "missing"),
    ({"tokenizer.model.v3": ""}, True, template.MISTRAL_V3, None),
    ({"chat_template.jinja": "?", "tekken.json": '{"config": {"version": "v13"}}'}, False, template.MISTRAL_V7, None),
]


@pytest.mark.parametrize("files,space,kind,words", TEMPLATES)
def test_templates(files, space, kind, words):
    found, line = template.find_template(Folder(files), space)
    assert found == kind and (line is None if words is None else words in line)


def tekken_file(change):
    def damaged(path):
        data = json.loads((DATA / "tekken_240718.json").read_text())
        change(data)
        path.write_text(json.dumps(data))
    return damaged


def model_file(change):
    def damaged(path):
        path.write_bytes(change((DATA / FILES["spm v3"][0]).read_bytes()))
    return damaged


REFUSED = {  # file, what is done to it, and a word of the error
    "pattern": ("tekken.json", tekken_file(lambda d: d["config"].update(pattern="\\s+")), "pattern"),
    "too large": ("tekken.json", tekken_file(lambda d: d["config"].update(default_vocab_size=TEKKEN + 1)), "vocab_size"),
    "byte": ("tekken.json", tekken_file(lambda d: d["vocab"][65].update(token_bytes="enp6enp6")), "a byte has no token"),
    "twice": ("tekken.json", tekken_file(lambda d: d["vocab"][300].update(d["vocab"][301])), "twice"),
    "unreachable": ("tekken.json", tekken_file(lambda d: d["vocab"][500].update(token_bytes="enF6cXpx")), "no merges lead to"),
    "no JSON": ("tekken.json", lambda path: path.write_text("{"), "not JSON"),
    "cut off": ("tokenizer.model", model_file(lambda d: d[:1000]), "tokenizer.model: "),
    "garbage": ("tokenizer.model", model_file(lambda d: b"\xff" * 100), "damaged"),
    "nothing": ("tokenizer.model", model_file(lambda d: b""), "model_type"),
    "prefix": ("tokenizer.model",
               model_file(lambda d: d.replace(b"identity\x12\x00\x18\x01", b"identity\x12\x00\x18\x00")), "add_dummy_prefix"),
    "space": ("tokenizer.model", model_file(lambda d: d.replace("▁the".encode(), "the▁".encode(), 1)), "after another character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    file, damage, word = REFUSED[name]
    damage(tmp_path / file)
    with pytest.raises(ValueError) as caught:
        exporter.tokenizer_section(tmp_path / file, SPM if "model" in file else TEKKEN)
    assert word in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(file)


# ---- all of it ----

@pytest.mark.parametrize("file,train,name", [("tekken.json", make_mistral.train_tekken, "Mistral v7"),
                                             ("tokenizer.model.v3", make_mistral.train_sentencepiece, "Mistral v3")])
def test_a_chat(file, train, name, tmp_path):
    """Mistral's own files with their tokenizer, exported: a chat has mistral-common's ids, an answer the text of its tokens."""
    size = train(tmp_path / file)
    source = text_model.make_folder(tmp_path / "hf", architecture="MistralForCausalLM", vocab_size=size)
    folder = Path(text_model.make_consolidated(source, tmp_path / "mistral"))
    (tmp_path / file).rename(folder / file)
    program, model = harness.build(), harness.export(str(folder), str(tmp_path / "model.smol"))
    assert f"chat template {name}" in harness.call(program, model, "--info")
    questions, chat = ["Who?</s>[INST]", " What is in  this\tpicture?"], [("system", "Be brief.")]
    answers = harness.chat(program, model, [], questions, "-s", "Be brief.")
    mistral = MistralTokenizer.from_file(str(folder / file))
    makers = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    for question, answer in zip(questions, answers, strict=True):
        chat.append(("user", question))
        request = ChatCompletionRequest(messages=[makers[role](content=text) for role, text in chat])
        assert answer["prompt_tokens"] == mistral.encode_chat_completion(request).tokens
        chat.append(("assistant", answer["text"] or "?"))
        assert answer["text"]
    raw = json.loads(harness.call(program, model, "--json", "--raw", "-n", 1, "--", "Who?"))
    tok = mistral.instruct_tokenizer.tokenizer
    assert raw["prompt_tokens"] == tok.encode("Who?", bos=True, eos=False)


# ---- time ----

@needs_assets
def test_ten_megabytes(each, capsys):
    """Printed, not asserted; but a quadratic merge loop would not come to an end."""
    texts = {"one letter": (b"a", 10_000_000), "spaces": (b" ", 10_000_000), "Chinese": ("中文字符没有标点".encode(), 416_666),
             "brackets": (b"[", 10_000_000), "English": ((ASSETS / "text" / "alice29.txt").read_bytes(), 66)}
    answers = each.ask([f"b {hexa(t)} {times}" for t, times in texts.values()], "fast")
    with capsys.disabled():
        for (name, (text, times)), answer in zip(texts.items(), answers):
            ids, scratch, ms = numbers(answer)
            print(f"\n  {each.name}, {name}: {len(text) * times / 1e6:.1f} MB, {ids} ids, {ms} ms", end="")
        print()
