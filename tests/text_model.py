"""Makes tiny, complete, random text models in every layout that the exporter reads.

    make_folder(path, **shape)           a Hugging Face folder of a Llama, a Mistral or a Mistral3
    make_consolidated(folder, path)      the same model in Mistral's own files
    make_gguf(folder, path, kinds)       the same model as GGUF; the folder's weights become what was written

The row orders are written here from the descriptions of the formats, not taken from the exporter.
"""

import json
import os

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from tiny_model import byte_alphabet, fill, make_tokenizer, read_json, write_json

DEFAULTS = dict(
    architecture="LlamaForCausalLM", dim=40, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=72, n_layers=3, vocab_size=640,
    max_positions=4096, rms_norm_eps=1e-5, rope_theta=100000.0, tie=False, seed=1, dtype="float32", max_shard_size="10GB")

EYE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)


def make_folder(path, **overrides):
    """Writes the folder and returns its path."""
    assert set(overrides) <= set(DEFAULTS), overrides
    o, path = {**DEFAULTS, **overrides}, str(path)
    os.makedirs(path, exist_ok=True)
    make_tokenizer(o["vocab_size"]).save(os.path.join(path, "tokenizer.json"))
    model = make_model(o)
    model.save_pretrained(path, max_shard_size=o["max_shard_size"])
    write_json(path, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    return path


def make_model(o):
    transformers.utils.logging.disable_progress_bar()
    text = dict(
        hidden_size=o["dim"], intermediate_size=o["hidden_dim"], num_hidden_layers=o["n_layers"],
        num_attention_heads=o["n_heads"], num_key_value_heads=o["n_kv_heads"], head_dim=o["head_dim"],
        vocab_size=o["vocab_size"], rms_norm_eps=o["rms_norm_eps"], max_position_embeddings=o["max_positions"],
        tie_word_embeddings=o["tie"], rope_parameters=dict(rope_type="default", rope_theta=o["rope_theta"]),
        bos_token_id=1, eos_token_id=2)
    if o["architecture"] == "LlamaForCausalLM":
        config = transformers.LlamaConfig(**text)
    elif o["architecture"] == "MistralForCausalLM":
        config = transformers.MistralConfig(**text, sliding_window=None)
    else:
        config = transformers.Mistral3Config(
            text_config=dict(text, model_type="mistral", sliding_window=None), vision_config=dict(EYE, model_type="pixtral"),
            tie_word_embeddings=o["tie"])
    model = getattr(transformers, o["architecture"])(config).eval()
    fill(model, o["seed"])
    return model.to(getattr(torch, o["dtype"]))


def load_weights(folder):
    return {name: x for file in sorted(os.listdir(folder)) if file.endswith(".safetensors")
            for name, x in load_file(os.path.join(folder, file)).items()}


# ---- Mistral's own files ----

def make_consolidated(folder, path, n_shards=1):
    """n_shards 2: two files and their index."""
    os.makedirs(path)
    config = read_json(folder, "config.json")
    tensors = {mistral_name(name): x for name, x in load_weights(folder).items()}
    for name in tensors:
        if name.endswith(("attention.wq.weight", "attention.wk.weight")):
            tensors[name] = interleaved(tensors[name], config["head_dim"])
    names = sorted(tensors)
    files = ["consolidated.safetensors"]
    if n_shards == 2:
        files = [f"consolidated-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::n_shards]}, os.path.join(path, file))
    if n_shards > 1:
        write_json(path, "consolidated.safetensors.index.json", {"metadata": {}, "weight_map": {
            name: files[i % n_shards] for i, name in enumerate(names)}})
    write_json(path, "params.json", {
        "dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "head_dim": config["head_dim"],
        "hidden_dim": config["intermediate_size"], "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"], "norm_eps": config["rms_norm_eps"], "vocab_size": config["vocab_size"],
        "rope_theta": config["rope_parameters"]["rope_theta"], "max_seq_len": config["max_position_embeddings"]})
    os.symlink(os.path.join(folder, "tokenizer.json"), os.path.join(path, "tokenizer.json"))
    return str(path)


def mistral_name(name):
    for ours, theirs in (("model.embed_tokens", "tok_embeddings"), ("model.norm", "norm"), ("lm_head", "output"),
                         ("model.layers", "layers"), ("input_layernorm", "attention_norm"),
                         ("post_attention_layernorm", "ffn_norm"), ("self_attn.q_proj", "attention.wq"),
                         ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"),
                         ("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"),
                         ("mlp.down_proj", "feed_forward.w2"), ("mlp.up_proj", "feed_forward.w3")):
        name = name.replace(ours, theirs)
    return name


def interleaved(x, head_dim):
    """Row 2i + c of a head becomes what was row c * head_dim / 2 + i."""
    out = x.clone()
    for head in range(0, len(x), head_dim):
        for i in range(head_dim // 2):
            for c in range(2):
                out[head + 2 * i + c] = x[head + c * head_dim // 2 + i]
    return out


# ---- GGUF ----

def make_gguf(folder, path, kinds=("F32",), change=lambda writer: None, skip=()):
    """Matrices have the types kinds in turn, vectors F32. Afterwards the folder holds the values that the `gguf` package reads
    back. change: adds to the writer; skip: keys to leave out."""
    config = read_json(folder, "config.json")
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, folder, config, skip)
    change(writer)
    weights = load_weights(folder)
    for i, (name, x) in enumerate(sorted(weights.items())):
        kind = getattr(gguf.GGMLQuantizationType, kinds[i % len(kinds)] if x.dim() > 1 else "F32")
        is_turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        rows = interleaved(x.float(), config["head_dim"]) if is_turned else x.float()
        data, values = encode(rows.numpy(), kind, seed=i)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
        weights[name] = torch.from_numpy(values if not is_turned else halves(values, config["head_dim"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return str(path)


def halves(x, head_dim):
    """Undoes interleaved()."""
    out = x.copy()
    for head in range(0, len(x), head_dim):
        for i in range(head_dim // 2):
            for c in range(2):
                out[head + c * head_dim // 2 + i] = x[head + 2 * i + c]
    return out


def encode(x, kind, seed):
    """The bytes of a tensor, and what the `gguf` package reads from them. It has no encoder for the k-quants: these get random
    blocks with scales that keep the values small."""
    try:
        data = gguf.quants.quantize(x, kind)
    except NotImplementedError:
        data = random_blocks(x.shape, kind, np.random.RandomState(seed))
    return data, gguf.quants.dequantize(data, kind).astype(np.float32).reshape(x.shape)


# Where the f16 scales stand in a block.
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_blocks(shape, kind, random):
    per_block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.randint(0, 256, (*shape[:-1], shape[-1] // per_block, n_bytes), np.uint8)
    for at in SCALES[kind.name]:
        scale = random.uniform(1e-5, 1e-4, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at:at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def add_metadata(writer, folder, config, skip):
    add = dict(
        context_length=config["max_position_embeddings"], embedding_length=config["hidden_size"],
        block_count=config["num_hidden_layers"], feed_forward_length=config["intermediate_size"],
        head_count=config["num_attention_heads"], head_count_kv=config["num_key_value_heads"],
        layer_norm_rms_eps=config["rms_norm_eps"], rope_freq_base=config["rope_parameters"]["rope_theta"],
        rope_dimension_count=config["head_dim"], key_length=config["head_dim"], value_length=config["head_dim"])
    for key, value in add.items():
        if key not in skip:
            getattr(writer, "add_" + key)(value)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    writer.add_license("apache-2.0")
    if "tokenizer" not in skip:
        add_tokenizer(writer, read_json(folder, "tokenizer.json"), config["vocab_size"])


def add_tokenizer(writer, tokenizer, n):
    """Places without a token have a name and the type 5, unused."""
    tokens = {i: text for text, i in tokenizer["model"]["vocab"].items()}
    added = {a["id"]: a["content"] for a in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([added.get(i) or tokens.get(i) or f"[PAD{i}]" for i in range(n)])
    writer.add_token_types([3 if i in added else 1 if i in tokens else 5 for i in range(n)])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]])
    writer.add_pad_token_id(2)


def gguf_name(name):
    for ours, theirs in (("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
                         ("model.layers", "blk"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
                         ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
                         ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
                         ("mlp.down_proj", "ffn_down")):
        name = name.replace(ours, theirs)
    return name


def add_sentencepiece(writer, path):
    """The tokenizer of Mistral's v3 models, as llama.cpp's converter writes it."""
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    n = range(model.get_piece_size())
    pieces = [model.id_to_piece(i) for i in n]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([model.get_score(i) for i in n])
    writer.add_token_types([2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else
                            4 if pieces[i].startswith("[REFERENCE_DOC_") else 1 for i in n])
    return model


def add_tekken(writer, path):
    """Tekken as a byte-level BPE: every split of a token into two others is a merge, in the order of the tokens."""
    import base64
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    alphabet = byte_alphabet()
    words = [base64.b64decode(t["token_bytes"]) for t in data["vocab"][:131072 - 1000]]
    known = set(words)
    texts = {word: "".join(alphabet[b] for b in word) for word in words}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 1000))]
    writer.add_token_list([*special, *texts.values()])
    writer.add_token_types([3] * 1000 + [1] * len(words))
    writer.add_token_merges([f"{texts[word[:k]]} {texts[word[k:]]}" for word in words for k in range(1, len(word))
                             if word[:k] in known and word[k:] in known])
