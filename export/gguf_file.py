"""A GGUF file, as llama.cpp reads it, seen as the Hugging Face folder that it was made from.

Metadata becomes config.json, generation_config.json and tokenizer.json; quantised tensors are computed back to f32 by the
`gguf` package. The converter that writes such files orders the rows of each head's query and key so that neighbours are turned
together by the rotary positions; here they are put back.
"""

import os
import re
from contextlib import contextmanager

import gguf
import numpy as np

import tokenizer
from source import LLAMA, Checkpoint, Entry, ExportError, Folder, hugging_face_name, require

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
# Keys of the architecture "llama", which Mistral's text models have, too.
CONFIG = {
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
# tokenizer.ggml.pre; whether a text begins with the BOS where the file does not say it; tokenizer.json's ignore_merges
PRE_TOKENIZERS = {
    "smollm": (tokenizer.PRE_TOKENIZER, False, False),
    "tekken": ({"type": "Sequence", "pretokenizers": tokenizer.TEKKEN_STEPS}, True, True),
}
# tokenizer.ggml.token_type: the others are unused places and bytes, which byte-level BPE does not have
NORMAL, CONTROL, USER_DEFINED = tokenizer.NORMAL, tokenizer.CONTROL_PIECE, tokenizer.USER_PIECE


def is_gguf(path):
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as f:
        is_one = f.read(4) == b"GGUF"
    require(is_one or not path.endswith(".gguf"), f"{os.path.basename(path)} is no GGUF file: it does not begin with that word")
    return is_one


class GgufFile(Folder):
    def __init__(self, path):
        super().__init__(os.path.dirname(os.path.abspath(path)))
        self.name = os.path.basename(path)
        try:
            reader = gguf.GGUFReader(self.file(self.name))
            self.fields = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as e:  # the package raises what its reading past the end happens to bring about
            raise ExportError(f"{self.name} is damaged or cut off: {e}") from None
        self.tensors = reader.tensors
        self.made["config.json"] = self.config()
        self.made["generation_config.json"] = self.generation_config()
        self.made["tokenizer.json"] = self.tokenizer()
        template = self.fields.get("tokenizer.chat_template")
        self.made["tokenizer_config.json"] = {"chat_template": template} if template else {}

    def has(self, name):
        """Of the files beside it none is meant."""
        return name in self.made or name == self.name

    def license(self):
        return self.fields.get("general.license")

    def field(self, key, kind):
        value = self.fields.get(key)
        require(isinstance(value, kind) and not isinstance(value, bool), f"{self.name}: {key} is {shown(value)}")
        return value

    def config(self):
        architecture = self.fields.get("general.architecture")
        require(architecture == "llama", f"{self.name}: general.architecture is {architecture!r}; only 'llama' is supported")
        parts = self.fields.get("split.count", 1)
        require(parts < 2, f"{self.name} is one of {parts} parts: join them first, with llama.cpp's llama-gguf-split --merge")
        config = {name: self.field("llama." + key, (int, float)) for key, name in CONFIG.items()}
        heads = config["num_attention_heads"]
        require(heads > 0, f"{self.name}: llama.attention.head_count is {heads}")
        head_dim = self.fields.get("llama.attention.key_length", config["hidden_size"] // heads)
        for key, wanted in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim),
                            ("rope.scaling.type", "none"), ("expert_count", 0), ("attention.sliding_window", None)):
            found = self.fields.get("llama." + key, wanted)
            require(found == wanted, f"{self.name}: llama.{key} is {shown(found)}; only {wanted} is supported")
        return {**config, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": head_dim,
                "vocab_size": len(self.field("tokenizer.ggml.tokens", list)),
                "tie_word_embeddings": all(t.name != "output.weight" for t in self.tensors)}

    def generation_config(self):
        ids = [self.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "padding", "eos", "eot")]
        eos = sorted({i for i in ids[2:] if i is not None})
        return {"bos_token_id": ids[0], "pad_token_id": ids[1], "eos_token_id": eos}

    def first_token(self, default):
        """The token that a text begins with, or None."""
        begins = self.fields.get("tokenizer.ggml.add_bos_token", default)
        return self.fields.get("tokenizer.ggml.bos_token_id") if begins else None

    def tokenizer(self):
        """What tokenizer_section takes: tokenizer.json of a byte-level BPE, or the pieces of SentencePiece."""
        model, pre = self.fields.get("tokenizer.ggml.model"), self.fields.get("tokenizer.ggml.pre")
        has_space = self.fields.get("tokenizer.ggml.add_space_prefix", True)
        require(model == "gpt2" and pre in PRE_TOKENIZERS or model == "llama" and has_space,
                f"{self.name}: tokenizer.ggml.model {model!r} with tokenizer.ggml.pre {pre!r} is not supported")
        tokens, kinds = self.field("tokenizer.ggml.tokens", list), self.field("tokenizer.ggml.token_type", list)
        require(len(tokens) == len(kinds), f"{self.name}: {len(tokens)} tokens have {len(kinds)} types")
        if model == "llama":
            scores = self.field("tokenizer.ggml.scores", list)
            require(len(tokens) == len(scores), f"{self.name}: {len(tokens)} tokens have {len(scores)} scores")
            return {"pieces": list(zip(tokens, scores, kinds)), "bos": self.first_token(True)}
        steps, begins, ignore_merges = PRE_TOKENIZERS[pre]
        bos = self.first_token(begins)
        return {
            "pre_tokenizer": steps, "decoder": {"type": "ByteLevel"}, "post_processor": tokenizer.puts_first(bos),
            "model": {"type": "BPE", "merges": self.field("tokenizer.ggml.merges", list), "ignore_merges": ignore_merges,
                      "vocab": {text: i for i, (text, kind) in enumerate(zip(tokens, kinds)) if kind == NORMAL}},
            "added_tokens": [{"id": i, "content": text, "special": kind == CONTROL}
                             for i, (text, kind) in enumerate(zip(tokens, kinds)) if kind in (CONTROL, USER_DEFINED)],
        }

    def checkpoint(self, c):
        return GgufCheckpoint(self, c.head_dim)


def shown(value):
    """Short, and in one line."""
    text = repr(value)
    return text if len(text) < 60 else text[:60] + " ..."


class GgufCheckpoint(Checkpoint):
    def __init__(self, folder, head_dim):
        self.folder, self.family, self.entries = folder, LLAMA, {}
        self.places = {}
        for t in folder.tensors:
            kind = t.tensor_type.name
            require(kind in TYPES, f"{folder.name}: {t.name} is of type {kind}, not one of {', '.join(TYPES)}")
            is_turned = re.fullmatch(r"blk\.\d+\.attn_[qk]\.weight", t.name)
            shape = tuple(int(n) for n in reversed(t.shape))
            entry = Entry(folder.name, t.name, "F32", shape, head_dim if is_turned else 0)
            self.places[t.name] = (t.tensor_type, t.data_offset, t.n_bytes)
            self.add(entry, hugging_face_name(t.name, "blk", NAMES, LAYER_NAMES))

    @contextmanager
    def reader(self, entry):
        kind, offset, n_bytes = self.places[entry.stored]
        path = os.path.join(self.folder.path, entry.file)
        data = np.memmap(path, np.uint8, "r", offset, n_bytes).reshape(entry.shape[0], -1)
        yield lambda a, b: gguf.quants.dequantize(data[a:b], kind)
