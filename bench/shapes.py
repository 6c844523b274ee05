#!/usr/bin/env python3
"""The shapes of the released models, and folders of configuration files with them.

    python bench/shapes.py 256M build/bench/256M

Only shapes matter for speed. So the folder is the demonstration model's, which has a tokenizer and a chat template of
the right kind, with these numbers put in and without weights; export/export.py --random fills in the rest. For 22B, which
has no eyes, it is a configuration and the tokenizer that mistral-common carries.
"""

import json
import os
import shutil
import sys

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "demo")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.json", "added_tokens.json", "special_tokens_map.json",
             "generation_config.json")

SIGLIP_B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16, "longest_edge": 2048, "scale_factor": 4, "image_seq_len": 64}
SIGLIP_SO = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
             "image_size": 384, "patch_size": 14, "longest_edge": 1536, "scale_factor": 3, "image_seq_len": 81}

# config.json of HuggingFaceTB/SmolVLM2-256M-Video-Instruct, -500M-Video-Instruct and -2.2B-Instruct
SHAPES = {
    "256M": {"vision": SIGLIP_B, "tied": True, "text": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "rope_theta": 100000.0}},
    "500M": {"vision": SIGLIP_B, "tied": True, "text": {
        "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "rope_theta": 100000.0}},
    "2.2B": {"vision": SIGLIP_SO, "tied": False, "text": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
        "num_key_value_heads": 32, "rope_theta": 130000.0}},
    # mistralai/Mistral-Small-Instruct-2409
    "22B": {"vision": None, "tied": False, "text": {
        "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 56, "num_attention_heads": 48,
        "num_key_value_heads": 8, "rope_theta": 1000000.0, "head_dim": 128, "vocab_size": 32768}},
}
MAX_POSITIONS, RMS_NORM_EPS = 8192, 1e-5
for shape in SHAPES.values():
    shape["text"] = {"head_dim": 64, "vocab_size": 49280, **shape["text"]}


def demo_json(name):
    with open(os.path.join(DEMO, name), encoding="utf-8") as f:
        return json.load(f)


def config(name):
    """config.json of transformers' SmolVLMConfig."""
    shape = SHAPES[name]
    vision = {k: v for k, v in shape["vision"].items() if k not in ("longest_edge", "scale_factor", "image_seq_len")}
    text = {k: v for k, v in shape["text"].items() if k != "rope_theta"}
    c = demo_json("config.json")
    c.update(scale_factor=shape["vision"]["scale_factor"], tie_word_embeddings=shape["tied"])
    c["vision_config"].update(vision)
    c["text_config"].update(text, max_position_embeddings=MAX_POSITIONS, rms_norm_eps=RMS_NORM_EPS,
                            tie_word_embeddings=shape["tied"],
                            rope_parameters={"rope_theta": shape["text"]["rope_theta"], "rope_type": "default"})
    return c


def write_text_folder(name, folder):
    import mistral_common
    tokenizer = os.path.join(os.path.dirname(mistral_common.__file__), "data", "mistral_instruct_tokenizer_240323.model.v3")
    os.makedirs(folder, exist_ok=True)
    shutil.copy(tokenizer, os.path.join(folder, "tokenizer.model.v3"))
    c = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1, "eos_token_id": 2,
         "hidden_act": "silu", "sliding_window": None, "tie_word_embeddings": SHAPES[name]["tied"],
         "max_position_embeddings": MAX_POSITIONS, "rms_norm_eps": RMS_NORM_EPS, **SHAPES[name]["text"]}
    write(folder, "config.json", c)
    write(folder, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})


def write(folder, file, content):
    with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
        json.dump(content, f, indent=2)


def write_folder(name, folder):
    if not SHAPES[name]["vision"]:
        return write_text_folder(name, folder)
    vision = SHAPES[name]["vision"]
    image, processor = demo_json("preprocessor_config.json"), demo_json("processor_config.json")
    image["max_image_size"] = image["video_sampling"]["video_size"] = {"longest_edge": vision["image_size"]}
    image["size"] = {"longest_edge": vision["longest_edge"]}
    processor["image_seq_len"] = vision["image_seq_len"]
    os.makedirs(folder, exist_ok=True)
    for file in TOKENIZER:
        shutil.copy(os.path.join(DEMO, file), folder)
    write(folder, "config.json", config(name))
    write(folder, "preprocessor_config.json", image)
    write(folder, "processor_config.json", processor)


if __name__ == "__main__":
    write_folder(*sys.argv[1:])
