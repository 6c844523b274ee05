"""GGUF files with random weights, in the shapes of the released models, for llama.cpp: the decoder and, as llama.cpp has
it, the vision encoder in a file of its own. Types of tensors as llama.cpp's converter and quantiser choose them."""

import os

import gguf
import numpy as np

from shapes import MAX_POSITIONS, RMS_NORM_EPS, SHAPES

Q = gguf.GGMLQuantizationType
# Bytes of a block that hold its scale (an f16), and the standard deviation of random quants, so that values stay in range.
SCALES = {Q.Q8_0: (0, 74), Q.Q4_0: (0, 4.6), Q.Q6_K: (208, 18 * 74)}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>"]


class Writer(gguf.GGUFWriter):
    def __init__(self, path, arch):
        super().__init__(path, arch)
        self.rng = np.random.default_rng(0)

    def finish(self):
        self.write_header_to_file()
        self.write_kv_data_to_file()
        self.write_tensors_to_file()
        self.close()

    def vector(self, name, n, value=0):
        self.add_tensor(name, np.full(n, value, np.float32))

    def dense(self, name, shape, dtype=np.float32):
        scale = np.float32(np.prod(shape[1:]) ** -0.5)
        self.add_tensor(name, (self.rng.standard_normal(shape, dtype=np.float32) * scale).astype(dtype))

    def matrix(self, name, n_rows, n_cols, kind):
        """Random bytes are random quants; only the scales are set."""
        if n_cols % gguf.GGML_QUANT_SIZES[kind][0] and kind == Q.Q6_K:
            kind = Q.Q8_0
        block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        if n_cols % block:
            return self.dense(name, (n_rows, n_cols), np.float16)
        at, deviation = SCALES[kind]
        data = np.frombuffer(self.rng.bytes(n_rows * n_cols // block * n_bytes), np.uint8).reshape(-1, n_bytes).copy()
        data[:, at:at + 2] = np.array([n_cols ** -0.5 / deviation], np.float16).view(np.uint8)
        self.add_tensor(name, data.reshape(n_rows, -1), raw_dtype=kind)


def vocabulary(size):
    """Single bytes, control tokens, and words that nobody says."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = (b for b in range(256) if b not in printable)
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i, _ in enumerate(rest)] + ["ĊĊ"]
    special = SPECIAL + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(special)
    tokens += special
    types += [gguf.TokenType.NORMAL] * (size - len(tokens))
    return tokens + [f"ĠĠĠĠ{i}" for i in range(size - len(tokens))], types


def write_decoder(name, kind, path):
    text = SHAPES[name]["text"]
    dim, hidden = text["hidden_size"], text["intermediate_size"]
    heads, kv_heads, head_dim = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]
    w = Writer(path, "llama")
    w.add_context_length(MAX_POSITIONS)
    w.add_embedding_length(dim)
    w.add_block_count(text["num_hidden_layers"])
    w.add_feed_forward_length(hidden)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head_dim)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_freq_base(text["rope_theta"])
    w.add_layer_norm_rms_eps(RMS_NORM_EPS)
    w.add_vocab_size(text["vocab_size"])
    tokens, types = vocabulary(text["vocab_size"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(["Ċ Ċ"])
    w.add_bos_token_id(tokens.index("<|im_start|>"))
    w.add_eos_token_id(tokens.index("<end_of_utterance>"))
    # the quantiser gives an output head more bits: a tied embedding is one
    head = Q.Q6_K if kind == Q.Q4_0 else kind
    w.matrix("token_embd.weight", text["vocab_size"], dim, head if SHAPES[name]["tied"] else kind)
    w.vector("output_norm.weight", dim, 1)
    if not SHAPES[name]["tied"]:
        w.matrix("output.weight", text["vocab_size"], dim, head)
    for i in range(text["num_hidden_layers"]):
        layer = f"blk.{i}."
        w.vector(layer + "attn_norm.weight", dim, 1)
        w.vector(layer + "ffn_norm.weight", dim, 1)
        w.matrix(layer + "attn_q.weight", heads * head_dim, dim, kind)
        w.matrix(layer + "attn_k.weight", kv_heads * head_dim, dim, kind)
        w.matrix(layer + "attn_v.weight", kv_heads * head_dim, dim, kind)
        w.matrix(layer + "attn_output.weight", dim, heads * head_dim, kind)
        w.matrix(layer + "ffn_gate.weight", hidden, dim, kind)
        w.matrix(layer + "ffn_up.weight", hidden, dim, kind)
        w.matrix(layer + "ffn_down.weight", dim, hidden, kind)
    w.finish()


def write_encoder(name, path):
    """Matrices in Q8_0, whatever the decoder's type: llama.cpp's quantiser does not know this file."""
    v, out = SHAPES[name]["vision"], SHAPES[name]["text"]["hidden_size"]
    dim, hidden, patch = v["hidden_size"], v["intermediate_size"], v["patch_size"]
    w = Writer(path, "clip")
    w.add_bool("clip.has_vision_encoder", True)
    w.add_string("clip.projector_type", "idefics3")
    w.add_bool("clip.use_gelu", True)
    for key in ("image_size", "patch_size"):
        w.add_uint32("clip.vision." + key, v[key])
    w.add_uint32("clip.vision.preproc_image_size", v["longest_edge"])
    w.add_uint32("clip.vision.embedding_length", dim)
    w.add_uint32("clip.vision.feed_forward_length", hidden)
    w.add_uint32("clip.vision.block_count", v["num_hidden_layers"])
    w.add_uint32("clip.vision.projection_dim", out)
    w.add_uint32("clip.vision.attention.head_count", v["num_attention_heads"])
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_uint32("clip.vision.projector.scale_factor", v["scale_factor"])
    w.add_array("clip.vision.image_mean", [0.5] * 3)
    w.add_array("clip.vision.image_std", [0.5] * 3)
    w.dense("v.patch_embd.weight", (dim, 3, patch, patch))
    w.vector("v.patch_embd.bias", dim)
    w.dense("v.position_embd.weight", ((v["image_size"] // patch) ** 2, dim))
    for i in range(v["num_hidden_layers"]):
        layer = f"v.blk.{i}."
        for tensor, n_rows, n_cols in (("attn_q", dim, dim), ("attn_k", dim, dim), ("attn_v", dim, dim), ("attn_out", dim, dim),
                                       ("ffn_up", hidden, dim), ("ffn_down", dim, hidden)):
            w.matrix(f"{layer}{tensor}.weight", n_rows, n_cols, Q.Q8_0)
            w.vector(f"{layer}{tensor}.bias", n_rows)
        for norm in ("ln1", "ln2"):
            w.vector(f"{layer}{norm}.weight", dim, 1)
            w.vector(f"{layer}{norm}.bias", dim)
    w.vector("v.post_ln.weight", dim, 1)
    w.vector("v.post_ln.bias", dim)
    w.matrix("mm.model.fc.weight", out, dim * v["scale_factor"] ** 2, Q.Q8_0)
    w.finish()


def written(path, write):
    if not os.path.exists(path):
        write(path + ".tmp")
        os.replace(path + ".tmp", path)
    return path


def files(name, kind, folder):
    """Paths of decoder and encoder, or None where the model has no eyes; written if they are not there. kind: q8 or q4."""
    types = {"q8": Q.Q8_0, "q4": Q.Q4_0}
    decoder = written(os.path.join(folder, f"{name}-{types[kind].name}.gguf"), lambda p: write_decoder(name, types[kind], p))
    if not SHAPES[name]["vision"]:
        return decoder, None
    return decoder, written(os.path.join(folder, f"{name}-mmproj-Q8_0.gguf"), lambda p: write_encoder(name, p))
