"""Mistral's own files, params.json and consolidated.safetensors, seen as a Hugging Face folder.

Three things differ: the words of the configuration, the names of the tensors, and the order of the rows of wq and wk. Mistral's
code turns neighbouring rows 2i and 2i + 1 of a head together (rotary positions as complex numbers), Hugging Face's the rows
i and i + head_dim / 2.
"""

import re

from source import LLAMA, Checkpoint, Folder, hugging_face_name, require

HUB_FILES = ["params.json", "consolidated*.safetensors", "consolidated.safetensors.index.json", "tekken.json",
             "tokenizer.model*", "README.md"]

# Fields of params.json. What is not there stays out of config.json, where the default is that of transformers' class.
CONFIG = {
    "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim", "vocab_size": "vocab_size", "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta", "max_seq_len": "max_position_embeddings", "max_position_embeddings": "max_position_embeddings",
    "tied_embeddings": "tie_word_embeddings", "sliding_window": "sliding_window",
}
# Those without which a model would be another one.
NEEDED = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "norm_eps", "rope_theta")
UNSUPPORTED = ("moe", "yarn", "rope_scaling", "llama_4_scaling", "quantization", "q_lora_rank")
MAX_POSITIONS = 32768  # of all models of the family that do not say it

NAMES = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
}
EYE = re.compile(r"^(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\.")


def is_consolidated(folder):
    """A repository may hold both layouts; then Hugging Face's is taken."""
    both = folder.has("config.json") and (folder.has("model.safetensors") or folder.has("model.safetensors.index.json"))
    return folder.has("params.json") and not both


class Consolidated(Folder):
    hub_files = HUB_FILES
    weights = "consolidated"

    def __init__(self, source, revision=None):
        super().__init__(source, revision)
        params = self.json("params.json")
        for field in NEEDED:
            require(field in params, f"params.json: {field} is missing")
        for field in UNSUPPORTED:
            require(not params.get(field), f"params.json: {field} {params.get(field)} is not supported")
        config = {CONFIG[field]: value for field, value in params.items() if field in CONFIG}
        self.made["config.json"] = {"max_position_embeddings": MAX_POSITIONS, "sliding_window": None, **config,
                                    "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
        self.made["generation_config.json"] = {"bos_token_id": 1, "eos_token_id": 2}

    def checkpoint(self, c):
        return ConsolidatedCheckpoint(self, c.head_dim)


class ConsolidatedCheckpoint(Checkpoint):
    def __init__(self, folder, head_dim):
        self.head_dim = head_dim
        super().__init__(folder, LLAMA)

    def add(self, entry, name):
        if not EYE.search(name):
            is_turned = re.search(r"\.attention\.w[qk]\.weight$", name)
            entry = entry._replace(paired=self.head_dim if is_turned else 0)
            super().add(entry, hugging_face_name(name, "layers", NAMES, LAYER_NAMES))
