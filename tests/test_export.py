"""export/ against transformers, and against everything that can be wrong with a folder."""

import inspect
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "export")]

import calibrate  # noqa: E402
import export  # noqa: E402
import header  # noqa: E402
import smooth  # noqa: E402
import source  # noqa: E402
import template  # noqa: E402
from configs import picture  # noqa: E402
from smol_file import F32, F32X16, NONE, Q4, Q8, SmolFile, header_table  # noqa: E402
from tiny_model import CHAT_TEMPLATE, DEFAULTS, make_folder, read_json, write_json  # noqa: E402

ASSETS = Path(os.environ.get("SMOL_ASSETS", HERE.parent.parent / "shared" / "assets"))
needs_assets = pytest.mark.skipif(not (ASSETS / "configs").is_dir(), reason="no real configurations: set SMOL_ASSETS")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder in the new style. Not to be changed: copies are."""
    return make_folder(tmp_path_factory.mktemp("hf") / "tiny")


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def run(folder, out, *options):
    return export.main([str(folder), "-o", str(out), "--quiet", *options])


def exported(folder, out):
    assert run(folder, out) == 0
    return SmolFile(out)


def edit(folder, name, change):
    """Applies a function to a JSON file's object."""
    value = read_json(folder, name)
    change(value)
    write_json(folder, name, value)


def edit_tensors(folder, change):
    """Applies a function to the dict of tensors."""
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    change(tensors)
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


# ---- what is written ----

MODELS = {
    "plain": dict(),
    "old, sharded, tied": dict(style="old", dtype="bfloat16", max_shard_size="20KB", tie=True, seed=2),
    "idefics3": dict(architecture="Idefics3", style="old", dtype="float16", tile_tokens=False, video=False, seed=3),
    "other sizes": dict(image_size=60, patch_size=14, v_dim=32, v_heads=4, v_layers=1, v_hidden_dim=48, dim=48, n_heads=6,
                        n_kv_heads=6, head_dim=10, hidden_dim=17, n_layers=1, vocab_size=650, rope_theta=273768.0,
                        longest_edge=120, max_shard_size="50KB", dtype="bfloat16", seed=4),
    "scale 3": dict(image_size=24, patch_size=4, scale_factor=3, dtype="float16", tie=True, rms_norm_eps=1e-6, seed=5),
}


def expected_names(o):
    """FORMAT.md's directory."""
    eye, names = "model.vision_model.", []
    names += [eye + "embeddings.patch_embedding.weight", eye + "embeddings.patch_embedding.bias",
              eye + "embeddings.position_embedding.weight"]
    for i in range(o["v_layers"]):
        for module in ("layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
                       "layer_norm2", "mlp.fc1", "mlp.fc2"):
            names += [f"{eye}encoder.layers.{i}.{module}.weight", f"{eye}encoder.layers.{i}.{module}.bias"]
    names += [eye + "post_layernorm.weight", eye + "post_layernorm.bias"]
    names += ["model.connector.modality_projection.proj.weight", "model.text_model.embed_tokens.weight"]
    for i in range(o["n_layers"]):
        for module in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                       "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            names.append(f"model.text_model.layers.{i}.{module}.weight")
    names.append("model.text_model.norm.weight")
    return names + ([] if o["tie"] else ["lm_head.weight"]) + ["rope.inv_freq"]


@pytest.mark.parametrize("name", MODELS)
def test_all_that_is_written(name, tmp_path):
    o = {**DEFAULTS, **MODELS[name]}
    folder = make_folder(tmp_path / "hf", **MODELS[name])
    smol = exported(folder, tmp_path / "model.smol")
    check_header(smol.header, o, folder)
    check_tensors(smol, o, folder)
    tokenizer = os.path.join(folder, "tokenizer.json")
    assert smol.tokenizer == export.tokenizer_section(tokenizer, o["vocab_size"])
    files = set(os.listdir(folder)) - {"tokenizer_config.json"}  # read only in search of a chat template
    assert set(smol.provenance["files"]) == files
    for file, digest in smol.provenance["files"].items():
        assert subprocess.check_output(["sha256sum", os.path.join(folder, file)], text=True).split()[0] == digest
    assert smol.provenance["source"] == "hf" and smol.provenance["revision"] is None


def check_header(h, o, folder):
    grid = o["image_size"] // o["patch_size"]
    token = transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids
    same = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "max_positions",
            "rope_theta", "image_size", "patch_size", "v_dim", "v_hidden_dim", "v_layers", "v_heads", "scale_factor")
    expected = {
        **{field: o[field] for field in same},
        "n_tensors": len(expected_names(o)), "weight_type": 0, "family": 1, "template": 1, "act": 1, "v_act": 1,
        "rms_norm_eps": np.float32(o["rms_norm_eps"]), "v_eps": np.float32(1e-6), "tied": int(o["tie"]),
        "tile_size": o["image_size"], "longest_edge": o["longest_edge"] or 4 * o["image_size"],
        "image_seq_len": (grid // o["scale_factor"]) ** 2, "do_image_splitting": 1, "resample": 1,
        "rescale_factor": 0.00392156862745098, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3,
        "video_max_frames": 64 * o["video"], "video_size": o["image_size"] * o["video"], "video_fps": 1.0 * o["video"],
        "bos_id": 0, "pad_id": 2, "image_token_id": token("<image>"),
        "n_eos": 1, "eos_id": (token("<end_of_utterance>"), NONE, NONE, NONE)}
    about_the_file = {"magic", "version", "file_bytes", "tokenizer_offset", "tokenizer_bytes", "provenance_offset",
                      "provenance_bytes", "directory_offset"}  # SmolFile checks these
    assert set(h) == set(expected) | about_the_file
    assert {k: v for k, v in h.items() if k in expected} == expected


def check_tensors(smol, o, folder):
    assert smol.names == expected_names(o)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    state = model.state_dict()
    assert set(smol.names) - {"rope.inv_freq"} == set(state) - ({"lm_head.weight"} if o["tie"] else set())
    for name in smol.names[:-1]:
        want = state[name].numpy()
        is_matrix = want.ndim > 1 and "position_embedding" not in name
        assert smol.types[name] == (F32X16 if is_matrix else F32), name
        want = want.reshape(want.shape[0], -1) if want.ndim > 1 else want[None]
        assert smol.tensors[name].shape == want.shape and (smol.tensors[name] == want).all(), name
    assert (smol.tensors["rope.inv_freq"] == scalar_inv_freq(o["rope_theta"], o["head_dim"])).all()


def scalar_inv_freq(theta, head_dim):
    """LlamaRotaryEmbedding's formula, one number at a time: torch's power of a long vector is a different function, off
    by one unit in the last place now and then, and not on all CPUs alike."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    return torch.cat([1.0 / (theta ** e.reshape(1)) for e in exponents]).numpy()


def test_inv_freq():
    for theta in (10000.0, 100000.0, 130000.0, 273768.0, 1e6, 1e8):
        for head_dim in (8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 128):
            ours = export.inv_freq(theta, head_dim)
            assert ours.dtype == np.float32 and (ours == scalar_inv_freq(theta, head_dim)).all(), (theta, head_dim)
            config = transformers.LlamaConfig(head_dim=head_dim, rope_parameters={"rope_type": "default",
                                                                                  "rope_theta": theta})
            rope = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
            # one unit in the power can become two in its reciprocal
            assert np.abs(ours.view(np.int32) - rope.inv_freq.numpy().view(np.int32)).max() <= 2, (theta, head_dim)


def test_the_page_and_the_exporter_agree():
    assert [row[:3] for row in header.HEADER] == header_table()


@pytest.mark.parametrize("family", ["SmolVLM", "Idefics3"])
def test_the_defaults_are_transformers_own(family):
    config = getattr(transformers, family + "Config")(text_config={"model_type": "llama"}, vision_config={})
    module = getattr(transformers.models, family.lower())
    image = getattr(getattr(module, f"image_processing_pil_{family.lower()}"), family + "ImageProcessorPil")()
    processor = inspect.signature(getattr(getattr(module, f"processing_{family.lower()}"), family + "Processor"))
    objects = {"text": config.text_config, "vision": config.vision_config, "config": config, "image": image,
               "processor": SimpleNamespace(**{k: p.default for k, p in processor.parameters.items()})}
    rows = [row[3:] for row in header.HEADER if len(row) == 5 and row[4] is not None] + header.FIXED
    rows = [(place, default) for place, default in rows if place.split(".")[0] in objects]
    assert len(rows) == 35
    for place, default in rows:
        name, *keys = place.split(".")
        value = objects[name]
        for key in keys:
            value = value[key] if isinstance(value, dict) else getattr(value, key)
        assert (list(value) if isinstance(value, tuple) else value) == default, place
    # a configuration without a text_config has another eps than one without the field
    assert getattr(transformers, family + "Config")().text_config.rms_norm_eps == 1e-5


def test_same_input_same_bytes(tiny, folder, tmp_path):
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert run(tiny, tmp_path / "a.smol") == run(folder, tmp_path / "b.smol") == 0
    assert (tmp_path / "a.smol").read_bytes() == (tmp_path / "b.smol").read_bytes()


def test_summary(tiny, tmp_path, capsys):
    assert export.main([tiny, "-o", str(tmp_path / "m.smol")]) == 0
    out, err = capsys.readouterr()
    assert SmolFile(tmp_path / "m.smol").sha256() in out and "69 tensors" in out and err == ""


# ---- quantised weights ----

EIGHT_BITS = ("patch_embedding.weight", "modality_projection.proj.weight", "embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("weights, asked, error", [("q8", Q8, 0.012), ("q4", Q4, 0.15)])
def test_quantised(tiny, tmp_path, weights, asked, error):
    """Matrices are near those of the f32 file, all else is the same."""
    exact = exported(tiny, tmp_path / "f32.smol")
    assert run(tiny, tmp_path / "m.smol", "--type", weights) == 0
    smol = SmolFile(tmp_path / "m.smol")
    assert smol.names == exact.names and smol.header["weight_type"] == {"q8": 1, "q4": 2}[weights]
    for name, want in exact.tensors.items():
        if exact.types[name] == F32X16:
            assert smol.types[name] == (Q8 if name.endswith(EIGHT_BITS) else asked), name
            assert 0 < np.linalg.norm(smol.tensors[name] - want) < error * np.linalg.norm(want), name
        else:
            assert smol.types[name] == F32 and (smol.tensors[name] == want).all(), name
    assert run(tiny, tmp_path / "again.smol", "--type", weights) == 0
    assert (tmp_path / "m.smol").read_bytes() == (tmp_path / "again.smol").read_bytes()


@pytest.mark.parametrize("value, message", [(float("nan"), "holds a NaN"), (2e6, "holds numbers above 1e+06")])
def test_what_cannot_be_quantised(folder, tmp_path, capsys, value, message):
    poison(Q, value)(folder)
    out = tmp_path / "model.smol"
    assert_refused(run(folder, out, "--type", "q4"), capsys.readouterr().err, out, f"{Q} {message}")


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
def test_random_weights(folder, tmp_path, weights):
    """The folder's shapes without its weights; the seed decides."""
    (folder / "model.safetensors").unlink()
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(folder, tmp_path / name, "--type", weights, "--random", "--seed", seed) == 0
    a, c = SmolFile(tmp_path / "a"), SmolFile(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert a.names == expected_names(DEFAULTS) and a.provenance["source"] == "tiny (random weights, seed 1)"
    for name in a.names[:-1]:
        x = a.tensors[name]
        assert (x != c.tensors[name]).any(), name
        if a.types[name] != F32 or x.shape[0] > 1:
            assert 0.8 < np.std(x) * x.shape[1] ** 0.5 < 1.25 and abs(x.mean()) < 0.1 * np.std(x), name
        else:
            assert abs(x.mean() - ("norm" in name and name.endswith("weight"))) < 0.1, name


# ---- calibration ----

@pytest.fixture
def material(tmp_path):
    folder = tmp_path / "material"
    folder.mkdir()
    (folder / "a.txt").write_text("What is written on the sign? " * 80)
    Image.fromarray(picture(50, 70)).save(folder / "b.png")
    (folder / "c.bin").write_bytes(b"no text")
    return folder


def test_moments(tiny, material):
    """Of the output head's inputs, which the reference gives out; and one set for query, key and value."""
    (material / "b.png").unlink()
    moments = calibrate.calibrate(tiny, config_of(tiny), str(material), quiet=True)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.float32)
    ids = torch.tensor(transformers.AutoTokenizer.from_pretrained(tiny).encode((material / "a.txt").read_text()))
    starts = np.linspace(0, len(ids) - 512, -(-len(ids) // 512)).astype(int)
    with torch.no_grad():
        x = torch.cat([model.model(ids[None, s:s + 512]).last_hidden_state[0] for s in starts]).numpy()
    head = moments["lm_head.weight"]
    assert len(starts) > 1 and head.n == len(x) and np.allclose(head.sum, x.T @ x, rtol=1e-3, atol=1e-3 * len(x))
    layer = "model.text_model.layers.1.self_attn."
    assert moments[layer + "q_proj.weight"] is moments[layer + "v_proj.weight"] is not moments[layer + "o_proj.weight"]
    assert moments[layer + "q_proj.weight"].n == head.n


@pytest.mark.parametrize("architecture, kind", [("SmolVLM", "q4"), ("Idefics3", "q8")])
def test_calibrated(architecture, kind, material, tmp_path):
    """Another file with the same tensors, nearer in what the model says; the provenance names what was seen."""
    folder = make_folder(tmp_path / "hf", architecture=architecture, tie=True, video=architecture == "SmolVLM")
    for name, options in (("plain", []), ("calibrated", ["--calibrate", str(material)])):
        assert run(folder, tmp_path / name, "--type", kind, *options) == 0
    plain, calibrated = SmolFile(tmp_path / "plain"), SmolFile(tmp_path / "calibrated")
    assert set(calibrated.provenance["calibration"]) == {"a.txt", "b.png"} and "calibration" not in plain.provenance
    assert plain.types == calibrated.types
    for name, x in plain.tensors.items():
        evened = kind == "q8" and re.search(r"input_layernorm|post_attention_layernorm|layer_norm|v_proj.bias", name)
        assert (x != calibrated.tensors[name]).any() == bool(plain.types[name] in (Q8, Q4) or evened), name


@pytest.mark.parametrize("tie", [False, True])
def test_even_inputs(tie, material, tmp_path):
    """Factors are divided out where a channel is made, and multiplied in where it is read: in floats each product of the two
    stays, channel by channel, and the inputs that the calibration saw are more even."""
    folder = make_folder(tmp_path / "hf", tie=tie)
    before, c = exported(folder, tmp_path / "a.smol").tensors, config_of(folder)
    moments = calibrate.calibrate(folder, c, str(material), quiet=True)
    unevenness = {name: np.ptp(np.log(m.mean_squares())) for name, m in moments.items()}
    assert export.export(str(folder), str(tmp_path / "b.smol"), material=str(material), quiet=True)
    after = SmolFile(tmp_path / "b.smol").tensors
    text, eye = "model.text_model.layers.1.", "model.vision_model.encoder.layers.0."
    heads = np.arange(c.n_heads * c.head_dim).reshape(c.n_kv_heads, -1, c.head_dim)
    value_of = np.broadcast_to(np.arange(c.n_kv_heads * c.head_dim).reshape(-1, 1, c.head_dim), heads.shape).reshape(-1)
    pairs = [(text + "input_layernorm.weight", text + f"self_attn.{p}_proj.weight", None) for p in "qkv"]
    pairs += [(text + "post_attention_layernorm.weight", text + f"mlp.{p}_proj.weight", None) for p in ("gate", "up")]
    pairs += [(text + "mlp.up_proj.weight", text + "mlp.down_proj.weight", None)]
    pairs += [(text + "self_attn.v_proj.weight", text + "self_attn.o_proj.weight", value_of)]
    for part in ("weight", "bias"):
        pairs += [(eye + "layer_norm1." + part, eye + f"self_attn.{p}_proj.weight", None) for p in "qkv"]
        pairs += [(eye + "layer_norm2." + part, eye + "mlp.fc1.weight", None)]
        pairs += [(eye + "self_attn.v_proj." + part, eye + "self_attn.out_proj.weight", None)]
    pairs += [] if tie else [("model.text_model.norm.weight", "lm_head.weight", None)]
    whole = set(before) - {name for maker, reader, _ in pairs for name in (maker, reader)}
    both = {maker for maker, *_ in pairs} & {reader for _, reader, _ in pairs}
    for maker, reader, order in pairs:
        made = [t[maker] if t[maker].shape[0] == 1 else t[maker].T for t in (before, after)]  # (anything, channels)
        made = [m if order is None else m[:, order] for m in made]
        products = [m[:1] * t[reader] for m, t in zip(made, (before, after))]
        if {maker, reader} & both:  # rows of the reader have factors of their own, or all of what is made has one
            products = [p / np.abs(p).sum(1, keepdims=True) for p in products]
        assert np.allclose(*products, rtol=1e-5, atol=1e-7) and not np.allclose(made[0], made[1], rtol=1e-3), (maker, reader)
    assert all(np.array_equal(before[n], after[n]) for n in whole if "layers." not in n)
    c.tied = tie
    smooth.smooth(c, "model.text_model.", moments)
    even = {name: np.ptp(np.log(m.mean_squares())) for name, m in moments.items()}
    changed = {reader for _, reader, order in pairs if order is None}
    assert all(even[name] < 0.6 * unevenness[name] for name in changed)
    assert all(even[n] == unevenness[n] for n in moments if n.endswith(("fc2.weight", "modality_projection.proj.weight")))


@pytest.mark.parametrize("options, message", [
    (["--type", "f32"], "--calibrate is for the weights of q8 and q4"),
    (["--type", "q8", "--random"], "--calibrate is for the weights of q8 and q4"),
    (["--type", "q8"], "nothing to calibrate with"),
])
def test_what_cannot_be_calibrated(tiny, tmp_path, capsys, options, message):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "model.smol"
    assert_refused(run(tiny, out, "--calibrate", str(tmp_path / "empty"), *options), capsys.readouterr().err, out, message)


# ---- configurations ----

def config_of(folder):
    return header.read_config(header.read_sources(source.Folder(str(folder))))


@needs_assets
@pytest.mark.parametrize("name, expected", [
    ("SmolVLM2-256M-Video-Instruct", dict(
        dim=576, n_layers=30, n_heads=9, n_kv_heads=3, hidden_dim=1536, v_dim=768, v_layers=12, v_heads=12,
        v_hidden_dim=3072, image_size=512, patch_size=16, scale_factor=4, image_seq_len=64, longest_edge=2048,
        rope_theta=100000, video_size=512)),
    ("SmolVLM2-500M-Video-Instruct", dict(
        dim=960, n_layers=32, n_heads=15, n_kv_heads=5, hidden_dim=2560, v_dim=768, v_layers=12, v_heads=12,
        v_hidden_dim=3072, image_size=512, patch_size=16, scale_factor=4, image_seq_len=64, longest_edge=2048,
        rope_theta=100000, video_size=512)),
    ("SmolVLM2-2.2B-Instruct", dict(
        dim=2048, n_layers=24, n_heads=32, n_kv_heads=32, hidden_dim=8192, v_dim=1152, v_layers=27, v_heads=16,
        v_hidden_dim=4304, image_size=384, patch_size=14, scale_factor=3, image_seq_len=81, longest_edge=1536,
        rope_theta=130000, video_size=384)),
])
def test_real_configurations(name, expected, tmp_path):
    folder = Path(shutil.copytree(ASSETS / "configs" / name, tmp_path / name))
    if not (folder / "config.json").exists():
        (folder / "config.SEMANTIC.json").rename(folder / "config.json")
        # the published file leaves these two out
        edit(folder, "config.json", lambda c: [c["text_config"].pop(k) for k in ("num_attention_heads",
                                                                                  "num_key_value_heads")])
    c = config_of(folder)
    expected.update(head_dim=64, vocab_size=49280, rms_norm_eps=1e-5, v_eps=1e-6, max_positions=8192,
                    image_token_id=49190, tile_size=expected["image_size"], eos_id=[49279], pad_id=2, bos_id=0,
                    video_max_frames=64, video_fps=1, do_image_splitting=1, resample=1, rescale_factor=1 / 255,
                    image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert {k: getattr(c, k) for k in expected} == expected
    assert template.find_template(source.Folder(str(folder)), False) == (template.SMOLVLM, None)
    export.tokenizer_section(ASSETS / "tokenizer_smolvlm" / "tokenizer.json", c.vocab_size)
    compare_with_autoconfig(folder, c)
    c.tied = 0
    numbers = {"dim": {576: 256484928, 960: 507482304, 2048: 2246784880}}["dim"][c.dim]
    assert sum(t.n_rows * t.n_cols for t in export.tensors(c) if t.shape) == numbers


def compare_with_autoconfig(folder, c):
    config = transformers.AutoConfig.from_pretrained(folder)
    places = {"text": config.text_config, "vision": config.vision_config, "config": config}
    for _, _, field, place, _ in (row for row in header.HEADER if len(row) == 5):
        name, key = place.split(".")[:2]
        if name in places:
            assert getattr(c, field) == getattr(places[name], key), field
    assert c.rope_theta == config.text_config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
                                 "rope_parameters", "hidden_act", "model_type"])
def test_omitted_text_fields(folder, key):
    """Fields that real files leave out, one at a time; the others would give a model of another size."""
    edit(folder, "config.json", lambda c: c["text_config"].pop(key))
    compare_with_autoconfig(folder, config_of(folder))


def test_the_video_processor_of_transformers_5(folder):
    """Saved by version 5 there may be only a nested video processor, in its own words."""
    def change(p):
        p["image_processor"].pop("video_sampling")
        p["video_processor"] = {"num_frames": 32, "fps": 2, "size": {"longest_edge": 100}}
    edit(folder, "processor_config.json", change)
    c = config_of(folder)
    assert (c.video_max_frames, c.video_fps, c.video_size) == (32, 2, 100)


def test_up_to_four_ends(folder, tmp_path):
    edit(folder, "generation_config.json", lambda g: g.update(eos_token_id=[625, 2, 0]))
    h = exported(folder, tmp_path / "m.smol").header
    assert h["n_eos"] == 3 and h["eos_id"] == (625, 2, 0, NONE)


# ---- tensors under other names, twice, or more than wanted ----

def renamed(*pairs):
    def change(tensors):
        for name in list(tensors):
            new = next((b + name[len(a):] for a, b in pairs if name.startswith(a)), name)
            tensors[new] = tensors.pop(name)
    return change


@pytest.mark.parametrize("pairs", [
    [("model.text_model.", "model.language_model.")],
    [("model.text_model.", "model.text_model.model."), ("lm_head.", "model.text_model.lm_head.")],
    [("model.text_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
     ("model.vision_model.", "vision_model."), ("model.connector.", "connector.")],
    [("model.text_model.", "language_model."), ("lm_head.", "language_model.lm_head."),
     ("model.vision_model.", "vision_model."), ("model.connector.", "connector.")],
])
def test_other_names(tiny, folder, tmp_path, pairs):
    edit_tensors(folder, renamed(*pairs))
    assert_same_tensors(exported(folder, tmp_path / "a.smol"), exported(tiny, tmp_path / "b.smol"))


def assert_same_tensors(a, b):
    assert a.names == b.names and all((a.tensors[n] == b.tensors[n]).all() for n in a.names)


def test_channels_last_convolution(tiny, folder, tmp_path):
    conv = "model.vision_model.embeddings.patch_embedding.weight"
    edit_tensors(folder, lambda t: t.update({conv: t[conv].permute(0, 2, 3, 1).contiguous()}))
    assert_same_tensors(exported(folder, tmp_path / "a.smol"), exported(tiny, tmp_path / "b.smol"))


def test_harmless_buffers(tiny, folder, tmp_path):
    edit_tensors(folder, lambda t: t.update({
        "model.text_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.vision_model.embeddings.position_ids": torch.arange(16)}))
    assert_same_tensors(exported(folder, tmp_path / "a.smol"), exported(tiny, tmp_path / "b.smol"))


@pytest.mark.parametrize("says, same, tied", [(True, True, 1), (True, False, 0), (False, True, 0), (False, False, 0)])
def test_a_head_beside_the_table(folder, tmp_path, says, same, tied):
    """A head in the file counts, unless it is said to be, and is, the embedding table."""
    table = "model.text_model.embed_tokens.weight"
    edit(folder, "config.json", lambda c: c.update(tie_word_embeddings=says))
    if same:
        edit_tensors(folder, lambda t: t.update({"lm_head.weight": t[table].clone()}))
    smol = exported(folder, tmp_path / "m.smol")
    assert smol.header["tied"] == tied and ("lm_head.weight" in smol.names) == (not tied)


def test_old_tied_files(folder, tmp_path):
    """transformers 4 took the text configuration's word for it."""
    edit(folder, "config.json", lambda c: c["text_config"].update(tie_word_embeddings=True))
    edit_tensors(folder, lambda t: t.pop("lm_head.weight"))
    assert exported(folder, tmp_path / "m.smol").header["tied"] == 1


# ---- chat templates ----

def put_template(folder, place, template):
    (folder / "chat_template.jinja").unlink()
    if place == "chat_template.jinja":
        (folder / place).write_text(template)
    elif place == "a list":
        edit(folder, "tokenizer_config.json", lambda t: t.update(chat_template=[
            {"name": "tools", "template": "?"}, {"name": "default", "template": template}]))
    elif place == "chat_template.json":
        write_json(folder, place, {"chat_template": template})
    elif place:
        edit(folder, place, lambda t: t.update(chat_template=template))


WITH_VIDEO = CHAT_TEMPLATE.replace("{% endif %}{% endfor %}<end", "{% elif line['type'] == 'video' %}{{ '<video>' }}"
                                                                  "{% endif %}{% endfor %}<end")
OTHER_SPACES = CHAT_TEMPLATE.replace("{% if", "\n  {%- if").replace("{% e", "\n  {%- e").replace(
    "['content']", ".content").replace("endfor %}\n", "endfor %}\n\n")
CASES = [
    ("chat_template.jinja", CHAT_TEMPLATE, 1), ("chat_template.json", CHAT_TEMPLATE, 1), ("a list", CHAT_TEMPLATE, 1),
    ("tokenizer_config.json", CHAT_TEMPLATE, 1), ("processor_config.json", CHAT_TEMPLATE, 1),
    ("chat_template.jinja", WITH_VIDEO, 1), ("chat_template.jinja", WITH_VIDEO.replace("{% if line", "{%if  line"), 1),
    ("chat_template.jinja", CHAT_TEMPLATE.replace("Assistant:", "Assistant: "), 0),
    ("chat_template.jinja", CHAT_TEMPLATE.replace("{{':'}}", "{{': '}}"), 0),
    ("chat_template.jinja", CHAT_TEMPLATE.replace("| capitalize", ""), 0),
    ("chat_template.jinja", "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>{% endfor %}", 0),
    ("chat_template.jinja", "{{ broken", 0), ("chat_template.jinja", "{{ ''.__class__.__mro__ }}", 0), (None, "", 0),
]


@pytest.mark.parametrize("place, template, kind", CASES)
def test_templates(folder, tmp_path, capsys, place, template, kind):
    put_template(folder, place, template)
    assert exported(folder, tmp_path / "m.smol").header["template"] == kind
    assert ("--raw" in capsys.readouterr().err) == (kind == 0)


# ---- everything that can be wrong ----

def config(**changes):
    return lambda f: edit(f, "config.json", lambda c: c.update(changes))


def text(**changes):
    return lambda f: edit(f, "config.json", lambda c: c["text_config"].update(changes))


def vision(**changes):
    return lambda f: edit(f, "config.json", lambda c: c["vision_config"].update(changes))


def image(**changes):
    return lambda f: edit(f, "processor_config.json", lambda c: c["image_processor"].update(changes))


def generation(**changes):
    return lambda f: edit(f, "generation_config.json", lambda c: c.update(changes))


def tensors(change):
    return lambda f: edit_tensors(f, change)


def without(name):
    return lambda f: (f / name).unlink()


def with_bytes(name, change):
    return lambda f: (f / name).write_bytes(change((f / name).read_bytes()))


def poison(name, value):
    def change(t):
        t[name].view(-1)[-1] = value
    return tensors(change)


def sharded(then):
    """Two shards and their index, then something goes wrong."""
    def change(f):
        both = load_file(f / "model.safetensors")
        names = sorted(both)
        files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        save_file({n: both[n] for n in names[::2]}, f / files[0])
        save_file({n: both[n] for n in names[1::2]}, f / files[1])
        (f / "model.safetensors").unlink()
        write_json(f, "model.safetensors.index.json",
                   {"metadata": {}, "weight_map": {n: files[i % 2] for i, n in enumerate(names)}})
        then(f)
    return change


def safetensors_header(change):
    """Rewrites the JSON header at the start of the file."""
    def rewrite(b):
        n = struct.unpack("<Q", b[:8])[0]
        entries = json.loads(b[8:8 + n])
        change(entries)
        text = json.dumps(entries).encode()
        return struct.pack("<Q", len(text)) + text + b[8 + n:]
    return with_bytes("model.safetensors", rewrite)


Q = "model.text_model.layers.0.self_attn.q_proj.weight"
POS = "model.vision_model.embeddings.position_embedding.weight"
BAD = {
    # tensors
    "missing tensor": (tensors(lambda t: t.pop(Q)), f"{Q} is missing"),
    "missing head": (tensors(lambda t: t.pop("lm_head.weight")), "lm_head.weight is missing, and tie_word_embeddings"),
    "surplus tensor": (tensors(lambda t: t.update({"a.b": torch.ones(1), "a.c": torch.ones(1)})), "2 tensors more than"),
    "surplus layer": (text(num_hidden_layers=2), "9 tensors more than the configuration has: model.text_model.layers.2"),
    "missing layer": (text(num_hidden_layers=4), "model.text_model.layers.3.input_layernorm.weight is missing"),
    "transposed": (tensors(lambda t: t.update({Q: t[Q].T.contiguous()})), f"{Q} is [40, 32], not [32, 40]"),
    "other rank": (tensors(lambda t: t.update({Q: t[Q].reshape(-1)})), f"{Q} is [1280], not [32, 40]"),
    "twice": (tensors(lambda t: t.update({Q.replace("text_model", "language_model"): t[Q].clone()})), "is there twice"),
    "int8": (tensors(lambda t: t.update({Q: t[Q].to(torch.int8)})), f"{Q} is of type I8"),
    "NaN in a matrix": (poison(Q, float("nan")), f"{Q} holds a NaN"),
    "infinity in a table": (poison(POS, -float("inf")), f"{POS} holds a NaN or an infinity"),
    "infinity in a vector": (poison("model.text_model.norm.weight", float("inf")), "model.text_model.norm.weight holds"),
    # files
    "no config": (without("config.json"), "config.json is missing in "),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json is missing in "),
    "no weights": (without("model.safetensors"), "model.safetensors is missing in "),
    "no processor": (without("processor_config.json"), "processor_config.json is missing in "),
    "no image processor": (lambda f: edit(f, "processor_config.json", lambda p: p.pop("image_processor")),
                           "preprocessor_config.json is missing in "),
    "no generation config": (without("generation_config.json"), "generation_config.json is missing in "),
    "cut JSON": (with_bytes("config.json", lambda b: b[:-20]), "config.json: not JSON"),
    "no object": (with_bytes("config.json", lambda b: b"[1]"), "config.json: not a JSON object"),
    "not UTF-8": (with_bytes("generation_config.json", lambda b: b"\xff" + b), "generation_config.json: not UTF-8"),
    "deep JSON": (with_bytes("config.json", lambda b: b"[" * 100000), "config.json: not JSON"),
    "cut tokenizer": (with_bytes("tokenizer.json", lambda b: b[:-20]), "tokenizer.json: not JSON"),
    "other tokenizer": (lambda f: edit(f, "tokenizer.json", lambda t: t.update(normalizer={"type": "NFC"})),
                        "tokenizer.json: normalizer"),
    "odd tokenizer": (lambda f: edit(f, "tokenizer.json", lambda t: t.update(added_tokens=[1])), ""),
    "cut weights": (with_bytes("model.safetensors", lambda b: b[:-1]), "model.safetensors is damaged"),
    "longer weights": (with_bytes("model.safetensors", lambda b: b + b"\0"), "model.safetensors is damaged"),
    "empty weights": (with_bytes("model.safetensors", lambda b: b""), "model.safetensors is damaged"),
    "huge header": (with_bytes("model.safetensors", lambda b: b"\xff" * 8 + b[8:]), "model.safetensors is damaged"),
    "overlapping weights": (safetensors_header(lambda e: e[Q].update(data_offsets=[0, 5120])), "model.safetensors is"),
    "missing shard": (sharded(without("model-00002-of-00002.safetensors")), "00002-of-00002.safetensors is missing in"),
    "cut shard": (sharded(with_bytes("model-00001-of-00002.safetensors", lambda b: b[:-9])),
                  "00001-of-00002.safetensors is damaged"),
    "shard elsewhere": (sharded(lambda f: edit(f, "model.safetensors.index.json", lambda i: i["weight_map"].update(
        a="../tiny/model.safetensors"))), "weight_map is not a table of file names"),
    "no weight map": (sharded(lambda f: write_json(f, "model.safetensors.index.json", {})), "weight_map is not a table"),
    # configuration
    "architecture": (config(architectures=["LlavaForConditionalGeneration"]), "architectures is ['Llava"),
    "no architecture": (config(architectures=None), "architectures is None"),
    "text model": (text(model_type="mistral"), "text.model_type is 'mistral'; only 'llama'"),
    "activation": (text(hidden_act="gelu"), "text.hidden_act is 'gelu'; only 'silu'"),
    "vision activation": (vision(hidden_act="gelu"), "vision.hidden_act is 'gelu'; only 'gelu_pytorch_tanh'"),
    "channels": (vision(num_channels=1), "vision.num_channels is 1"),
    "rope": (text(rope_parameters={"rope_type": "llama3", "rope_theta": 1e5}), "rope of type 'llama3' is not supported"),
    "old rope scaling": (text(rope_parameters=None, rope_scaling={"type": "linear", "factor": 2}), "rope of type 'linear'"),
    "part of a rope": (text(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    "rope base": (text(rope_parameters={"rope_theta": -1}), "rope_theta is -1"),
    "small vocabulary": (lambda f: (text(vocab_size=625)(f), generation(eos_token_id=2)(f)),
                         "'<end_of_utterance>' has id 625, vocab_size is 625"),
    "large vocabulary": (text(vocab_size=656), "is [640, 40], not [656, 40]"),
    "image token": (config(image_token_id=5), "<image> has id [620], image_token_id is 5"),
    "image token outside": (config(image_token_id=640), "token 640 is not in the vocabulary of 640"),
    "default image token": (config(image_token_id=None), "token 128257 is not in the vocabulary of 640"),
    "eos outside": (generation(eos_token_id=[2, 700]), "token 700 is not in the vocabulary of 640"),
    "no eos": (generation(eos_token_id=None), "eos_token_id is None"),
    "five eos": (generation(eos_token_id=[1, 2, 3, 4, 5]), "eos_token_id has 5 tokens"),
    "sequence": (lambda f: edit(f, "processor_config.json", lambda p: p.update(image_seq_len=5)),
                 "image_seq_len 5 does not fit image_size 36, patch_size 8 and scale_factor 2"),
    "default sequence": (lambda f: edit(f, "processor_config.json", lambda p: p.pop("image_seq_len")), "image_seq_len 169"),
    "scale": (config(scale_factor=3), "does not fit image_size 36, patch_size 8 and scale_factor 3"),
    "tile": (image(max_image_size={"longest_edge": 40}), "tile_size (max_image_size) 40 is not image_size 36"),
    "size": (image(size={"height": 144, "width": 144}), "image.size.longest_edge is missing"),
    "size as a number": (image(size=144), "size is 144, not an object"),
    "bicubic": (image(resample=3), "image.resample is 3; only 1"),
    "no rescaling": (image(do_rescale=False), "image.do_rescale is False"),
    "two means": (image(image_mean=[0.5, 0.5]), "image.image_mean is [0.5, 0.5], not three numbers"),
    "no deviation": (image(image_std=[0.5, 0, 0.5]), "image_std is"),
    "splitting": (image(do_image_splitting=1), "image.do_image_splitting is 1, not true or false"),
    "text config": (config(text_config=3), "text_config is 3, not an object"),
    "text as a number": (text(hidden_size="40"), "text.hidden_size is '40', not a whole number"),
    "float dim": (text(hidden_size=40.0), "text.hidden_size is 40.0, not a whole number"),
    "two patch sizes": (vision(patch_size=[8, 8]), "vision.patch_size is [8, 8], not a whole number"),
    "boolean dim": (text(hidden_size=True), "text.hidden_size is True"),
    "NaN eps": (text(rms_norm_eps=float("nan")), "text.rms_norm_eps is nan"),
    "zero dim": (text(hidden_size=0), "dim is 0, not above 0"),
    "negative dim": (text(hidden_size=-40), "dim is -40, not above 0"),
    "2^32 positions": (text(max_position_embeddings=1 << 32), "max_positions is 4294967296, not above 0 and at most"),
    "huge layers": (text(num_hidden_layers=10 ** 30), "n_layers is 1000"),
    "huge video": (image(video_sampling={"fps": 1, "max_frames": 1 << 32, "video_size": {"longest_edge": 36}}),
                   "video_max_frames 4294967296 does not fit"),
    "huge mean": (image(image_mean=[1e300, 0, 0]), "image_mean [1e+300, 0, 0] does not fit"),
    "heads": (text(num_key_value_heads=3), "n_kv_heads 3 does not divide n_heads 4"),
    "no heads": (text(num_attention_heads=0), "n_heads is 0"),
    "odd head": (text(head_dim=7), "head_dim 7 is odd"),
    "vision heads": (vision(num_attention_heads=5), "v_heads 5 does not divide v_dim 24"),
}


def assert_refused(code, err, out, message):
    """One line, exit status 1, and nothing but the source in the output's folder."""
    assert code == 1
    assert err.startswith("export: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert message in err, err
    assert "Traceback" not in err
    assert not [p for p in out.parent.iterdir() if p.is_file()]


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, folder, tmp_path, capsys):
    damage, message = BAD[name]
    damage(folder)
    out = tmp_path / "model.smol"
    assert_refused(run(folder, out), capsys.readouterr().err, out, message)


def test_no_such_folder(tmp_path, capsys):
    out = tmp_path / "model.smol"
    assert_refused(run(tmp_path / "none", out), capsys.readouterr().err, out, "no such folder")


def test_output_is_a_folder(tiny, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert run(tiny, tmp_path / "out") == 1
    assert capsys.readouterr().err.count("\n") == 1 and not list((tmp_path / "out").iterdir())


def test_a_failure_leaves_the_old_file(folder, tmp_path, capsys):
    out = tmp_path / "model.smol"
    out.write_bytes(b"old")
    poison(Q, float("nan"))(folder)
    assert run(folder, out) == 1 and out.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error, message", [(KeyboardInterrupt(), "interrupted"), (MemoryError(), "MemoryError"),
                                            (OSError(28, "No space left on device"), "No space left on device")])
def test_failures_on_the_way(tiny, tmp_path, capsys, monkeypatch, error, message):
    def pieces(t, c, *args, original=export.pieces):
        yield from original(t, c, *args)
        if "layers.1" in t.name:
            assert list(tmp_path.glob("*.tmp"))
            raise error
    monkeypatch.setattr(export, "pieces", pieces)
    out = tmp_path / "model.smol"
    assert_refused(run(tiny, out), capsys.readouterr().err, out, message)


def command(*args, **options):
    return subprocess.run([sys.executable, HERE.parent / "export" / "export.py", *args], capture_output=True, text=True,
                          **options)


def test_as_a_program_with_no_room(tiny, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    out = tmp_path / "model.smol"
    done = command(tiny, "-o", out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)))
    assert_refused(done.returncode, done.stderr, out, "File too large")


def test_as_a_program(tiny, tmp_path):
    done = command(tiny, "-o", tmp_path / "model.smol")
    assert done.returncode == 0 and done.stderr == "" and "sha256" in done.stdout
    assert command(tiny).returncode == 2


def test_no_folder_for_the_output(tiny, tmp_path, capsys):
    out = tmp_path / "none" / "x.smol"
    assert run(tiny, out) == 1
    assert capsys.readouterr().err == f"export: {out}: there is no folder {out.parent}\n"
    (tmp_path / "file").write_bytes(b"")
    assert run(tiny, tmp_path / "file" / "x.smol") == 1
    assert capsys.readouterr().err == f"export: {tmp_path}/file/x.smol: there is no folder {tmp_path}/file\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_as_a_program_interrupted(tiny, tmp_path, number):
    program = f"""if True:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        import export
        panels, remove = export.panels, os.remove
        def slow(x):
            assert [name for name in os.listdir(sys.argv[2]) if name.endswith(".tmp")]
            os.kill(os.getpid(), {int(number)})
            return panels(x)
        def and_again(path):
            os.kill(os.getpid(), {int(number)})
            remove(path)
        export.panels, os.remove = slow, and_again
        sys.exit(export.main(sys.argv[3:]))"""
    out = tmp_path / "model.smol"
    done = subprocess.run([sys.executable, "-c", program, HERE.parent / "export", tmp_path, tiny, "-o", out],
                          capture_output=True, text=True)
    assert_refused(done.returncode, done.stderr, out, "interrupted")


class CtrlC:
    """Presses it at a line of the exporter, counted from the start; 0: only counts them."""

    def __init__(self, at):
        self.at, self.n_lines = at, 0

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(os.path.dirname(export.__file__)):
            return None
        self.n_lines += event == "line"
        if event == "line" and self.n_lines == self.at:
            signal.raise_signal(signal.SIGINT)
        return self

    def run(self, *args):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return run(*args)
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("kind", ["f32", "q4"])
def test_ctrl_c_at_any_line(kind, tiny, tmp_path, capsys):
    """One line and no file, or it came too late and the file is whole."""
    out, counter = tmp_path / "model.smol", CtrlC(0)
    assert counter.run(tiny, out, "--type", kind) == 0
    whole, statuses = out.read_bytes(), []
    last = range(counter.n_lines - 30, counter.n_lines + 1)  # each of these: there the file takes its name
    for at in [*range(1, counter.n_lines, counter.n_lines // 40), *last]:
        out.unlink(missing_ok=True)
        try:
            statuses.append(CtrlC(at).run(tiny, out, "--type", kind))
        except KeyboardInterrupt:  # where main() has not begun, or is done
            assert at < 40 or at > counter.n_lines - 5, at
        err = capsys.readouterr().err
        assert re.fullmatch("export: interrupted\n|", err), (at, err)
        assert [p.name for p in tmp_path.iterdir()] in ([], [out.name]), at
        assert not out.exists() or out.read_bytes() == whole, at
    assert statuses.count(1) > 40


def leaves(value, path=()):
    """The places of all values in a JSON object."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from leaves(inner, (*path, key))


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "generation_config.json"])
def test_odd_values_everywhere(name, folder, tmp_path, capsys):
    """Any value of a configuration replaced by any other: a file that holds together, or one line."""
    original, out = read_json(folder, name), tmp_path / "model.smol"
    for place in leaves(original):
        for odd in (None, -1, 1.5, 3, "x", [], [1], {}, {"x": 1}):
            value = json.loads(json.dumps(original))
            inner = value
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            write_json(folder, name, value)
            code = run(folder, out)
            err = capsys.readouterr().err
            if code == 0:
                SmolFile(out)
                out.unlink()
            else:
                assert_refused(code, err, out, "")
                assert "Error" not in err, (place, odd, err)  # foreseen, not an exception's name


# ---- the hub ----

def test_hub_without_a_network(tmp_path):
    out = tmp_path / "model.smol"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "h")}
    done = command("nobody/no-such-model", "-o", out, env=offline)
    assert_refused(done.returncode, done.stderr, out, "nobody/no-such-model: cannot fetch it from the hub: ")


def test_hub(tiny, tmp_path, monkeypatch):
    """The provenance names the repository and the commit, and the model card's licence."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = Path(shutil.copytree(tiny, tmp_path / "snapshots" / commit))
    (snapshot / "README.md").write_text("---\ntags: []\nlicense: apache-2.0\n---\n# Tiny\nlicense: none\n")
    asked = {}

    def snapshot_download(repo, revision, allow_patterns):
        asked.update(repo=repo, revision=revision)
        return str(snapshot)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert run("someone/tiny", tmp_path / "m.smol", "--revision", "v1") == 0
    p = SmolFile(tmp_path / "m.smol").provenance
    assert asked == {"repo": "someone/tiny", "revision": "v1"}
    assert (p["source"], p["revision"], p["license"]) == ("someone/tiny", commit, "apache-2.0")
    assert "README.md" in p["files"]
