"""Everything that can be wrong with a text model's files: one line, exit status 1, and nothing left behind."""

import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "export")]

import header  # noqa: E402
import text_model  # noqa: E402
from test_export import assert_refused, edit, edit_tensors, exported, run, with_bytes, without  # noqa: E402

MISTRAL = dict(architecture="MistralForCausalLM", n_layers=2)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """One model as a Llama, a Mistral and a Mistral3 folder, in two consolidated files, and as GGUF. Not to be changed."""
    path = tmp_path_factory.mktemp("layouts")
    text_model.make_folder(path / "llama", n_layers=2)
    text_model.make_folder(path / "mistral", **MISTRAL)
    text_model.make_folder(path / "mistral3", architecture="Mistral3ForConditionalGeneration", n_layers=2)
    text_model.make_consolidated(str(path / "mistral"), path / "consolidated", 2)
    (path / "gguf").mkdir()
    text_model.make_gguf(str(path / "llama"), str(path / "gguf" / "model.gguf"))
    return path


@pytest.fixture
def copy(layouts, tmp_path):
    return lambda layout: Path(shutil.copytree(layouts / layout, tmp_path / layout, symlinks=False))


def config(**changes):
    return lambda f: edit(f, "config.json", lambda c: c.update(changes))


def params(**changes):
    return lambda f: edit(f, "params.json", lambda p: p.update(changes))


def drop(name, key):
    return lambda f: edit(f, name, lambda c: c.pop(key))


Q = "model.layers.0.self_attn.q_proj.weight"
BAD = {
    "unknown architecture": ("llama", config(architectures=["Qwen2ForCausalLM"]),
                             "architectures is ['Qwen2ForCausalLM'], not one of"),
    "text model of another kind": ("mistral", config(model_type="ministral"), "text.model_type is 'ministral'; only 'mistral'"),
    "window": ("mistral", config(sliding_window=1000), "text.sliding_window is 1000, less than the 4096 positions"),
    "window as transformers has it": (
        "mistral", lambda f: (config(max_position_embeddings=8192)(f), drop("config.json", "sliding_window")(f)),
        "text.sliding_window is 4096 where it is absent, less than the 8192 positions"),
    "window that is none": ("mistral", config(sliding_window="512"), "text.sliding_window is '512', not a whole number"),
    "rope": ("llama", config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e5, "factor": 8}), "rope of type 'llama3'"),
    "linear rope": ("llama", config(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None),
                    "rope of type 'linear'"),
    "bias": ("llama", config(attention_bias=True), "text.attention_bias is True"),
    "no text": ("mistral3", drop("config.json", "text_config"), "text_config is missing"),
    "heads": ("llama", config(num_key_value_heads=3), "n_kv_heads 3 does not divide n_heads 4"),
    "head_dim left out": ("llama", drop("config.json", "head_dim"), "q_proj.weight is [32, 40], not [40, 40]"),
    "no head": ("llama", lambda f: edit_tensors(f, lambda t: t.pop("lm_head.weight")),
                "lm_head.weight is missing, and tie_word_embeddings"),
    "eye of a blind model": ("llama", lambda f: edit_tensors(f, lambda t: t.update({"model.vision_model.x": torch.ones(1)})),
                             "1 tensors more than the configuration has: model.vision_model.x"),
    "no weights": ("llama", without("model.safetensors"), "model.safetensors is missing in "),
    "eos": ("llama", lambda f: edit(f, "generation_config.json", lambda g: g.update(eos_token_id=640)),
            "token 640 is not in the"),
    # consolidated
    "missing shard": ("consolidated", without("consolidated-00002-of-00002.safetensors"),
                      "00002-of-00002.safetensors is missing in"),
    "cut shard": ("consolidated", with_bytes("consolidated-00001-of-00002.safetensors", lambda b: b[:-9]),
                  "00002.safetensors is damaged"),
    "no shards": ("consolidated", without("consolidated.safetensors.index.json"), "consolidated.safetensors is missing in"),
    "mixture": ("consolidated", params(moe={"num_experts": 8}), "params.json: moe {'num_experts': 8} is not supported"),
    "window in params": ("consolidated", params(sliding_window=100), "text.sliding_window is 100"),
    "no head_dim": ("consolidated", drop("params.json", "head_dim"), "params.json: head_dim is missing"),
    "text as a number": ("consolidated", params(dim="40"), "text.hidden_size is '40', not a whole number"),
    "no head_dim at all": ("consolidated", params(head_dim=0), "head_dim is 0, not above 0"),
    "other head_dim": ("consolidated", params(head_dim=10), "q_proj.weight is [32, 40], not [40, 40]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folder(name, copy, tmp_path, capsys):
    layout, damage, message = BAD[name]
    folder = copy(layout)
    damage(folder)
    out = tmp_path / "model.smol"
    assert_refused(run(folder, out), capsys.readouterr().err, out, message)


# ---- GGUF ----

def written(change=lambda writer: None, kinds=("F32",), skip=()):
    """A GGUF file made anew."""
    return lambda f, hf: text_model.make_gguf(hf, str(f / "model.gguf"), kinds, change, skip)


def damaged(change):
    return lambda f, hf: with_bytes("model.gguf", change)(f)


def add(kind, key, value):
    return written(lambda writer: getattr(writer, "add_" + kind)(key, value))


def odd_tensor(writer):
    writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))


def odd_type(writer):
    writer.add_tensor("blk.9.attn_q.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)


def poisoned(writer):
    writer.add_tensor("blk.0.attn_q_norm.weight", np.full(4, np.nan, np.float32))


BAD_GGUF = {
    "type": (written(odd_type), "model.gguf: blk.9.attn_q.weight is of type IQ2_XXS, not one of F32, F16, BF16, Q8_0, Q4_0"),
    "surplus tensor": (written(odd_tensor), "1 tensors more than the configuration has: rope_freqs.weight"),
    "unknown norm": (written(poisoned), "1 tensors more than the configuration has: blk.0.attn_q_norm.weight"),
    "no word": (damaged(lambda b: b"GGML" + b[4:]), "model.gguf is no GGUF file"),
    "empty": (damaged(lambda b: b""), "model.gguf is no GGUF file"),
    "version": (damaged(lambda b: b[:4] + b"\x09\0\0\0" + b[8:]), "model.gguf is damaged or cut off: "),
    "many tensors": (damaged(lambda b: b[:8] + b"\xff" * 7 + b"\0" + b[16:]), "model.gguf is damaged or cut off: "),
    "many keys": (damaged(lambda b: b[:16] + b"\xff" * 7 + b"\0" + b[24:]), "model.gguf is damaged or cut off: "),
    "no heads": (written(skip=["head_count"]), "model.gguf: llama.attention.head_count is None"),
    "no context": (written(skip=["context_length"]), "model.gguf: llama.context_length is None"),
    "scaled rope": (add("string", "llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type is 'yarn'"),
    "part of a rope": (written(lambda w: w.add_rope_dimension_count(4), skip=["rope_dimension_count"]),
                       "rope.dimension_count is 4"),
    "window": (add("uint32", "llama.attention.sliding_window", 512), "llama.attention.sliding_window is 512"),
    "experts": (add("uint32", "llama.expert_count", 8), "llama.expert_count is 8; only 0"),
    "parts": (add("uint16", "split.count", 3), "model.gguf is one of 3 parts: join them first"),
}


@pytest.mark.parametrize("name", BAD_GGUF)
def test_bad_gguf(name, copy, tmp_path, capsys):
    damage, message = BAD_GGUF[name]
    folder, hf = copy("gguf"), str(copy("llama"))
    damage(folder, hf)
    out = tmp_path / "model.smol"
    assert_refused(run(folder / "model.gguf", out), capsys.readouterr().err, out, message)


def test_other_gguf_architecture(copy, tmp_path, capsys):
    path, out = tmp_path / "gguf" / "model.gguf", tmp_path / "model.smol"
    copy("gguf")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    assert_refused(run(path, out), capsys.readouterr().err, out, "general.architecture is 'qwen2'; only 'llama' is supported")


def test_cut_gguf(copy, tmp_path, capsys):
    """Cut off anywhere: within the metadata, the list of tensors and the tensors."""
    path, out = copy("gguf") / "model.gguf", tmp_path / "model.smol"
    whole = path.read_bytes()
    for n in [*range(4, len(whole) - 1, len(whole) // 23), len(whole) - 1]:
        path.write_bytes(whole[:n])
        assert_refused(run(path, out), capsys.readouterr().err, out, "model.gguf is damaged or cut off: ")


# ---- configurations ----

def test_the_defaults_are_transformers_own():
    config = transformers.MistralConfig()
    for place, value in header.MISTRAL.items():
        assert getattr(config, place.split(".")[1]) == value, place
    assert config.sliding_window == 4096  # check_window()
    llama = transformers.LlamaConfig()
    for _, _, field, place, default in (row for row in header.HEADER if len(row) == 5 and row[3].startswith("text.")):
        key = place.split(".")[1]
        if default is not None:
            assert getattr(llama, key) == default, field
            assert getattr(config, key) == header.MISTRAL.get(place, default), field
    for config_class in (llama, config):
        assert (config_class.bos_token_id, config_class.eos_token_id, config_class.pad_token_id) == (1, 2, None)


REAL = {  # the published files' numbers
    "22B": (dict(hidden_size=6144, intermediate_size=16384, num_hidden_layers=56, num_attention_heads=48, vocab_size=32768,
                 rope_theta=1e6, max_position_embeddings=32768), 22_247_282_688, 507),
    "24B": (dict(hidden_size=5120, intermediate_size=32768, num_hidden_layers=40, num_attention_heads=32, vocab_size=131072,
                 rope_theta=1e8, max_position_embeddings=32768), 23_572_403_200, 363),
}


@pytest.mark.parametrize("name", REAL)
def test_real_configurations(name, copy):
    numbers, n_parameters, n_tensors = REAL[name]
    import export
    import source
    folder = copy("mistral")
    edit(folder, "config.json", lambda c: (c.pop("rope_parameters"), c.update(
        numbers, num_key_value_heads=8, head_dim=128, sliding_window=None)))
    c = header.read_config(header.read_sources(source.Folder(str(folder))))
    c.tied, c.weight_type = 0, 0
    wanted = [t for t in export.tensors(c) if t.shape]
    assert sum(t.n_rows * t.n_cols for t in wanted) == n_parameters and len(wanted) == n_tensors
    assert c.rope_theta == numbers["rope_theta"] and c.rms_norm_eps == 1e-5


def test_which_layout_is_taken(copy, tmp_path):
    """A repository with both is read as Hugging Face's."""
    folder = copy("mistral")
    for path in copy("consolidated").iterdir():
        if path.name != "tokenizer.json":
            shutil.copy(path, folder)
    assert "model.safetensors" in exported(folder, tmp_path / "a.smol").provenance["files"]
    (folder / "model.safetensors").unlink()
    files = exported(folder, tmp_path / "b.smol").provenance["files"]
    assert "params.json" in files and "config.json" not in files
