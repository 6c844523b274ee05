#!/usr/bin/env python3
"""The shapes of the released models, and folders of configuration files with them.

    python bench/shapes.py 256M build/bench/256M

Only shapes matter for speed. So the folder is the demonstration model's, which has a tokenizer and a chat template of
the right kind, with these numbers put in and without weights; export/export.py --random fills in the rest.
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
}
HEAD_DIM, VOCAB_SIZE, MAX_POSITIONS, RMS_NORM_EPS = 64, 49280, 8192, 1e-5


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
    c["text_config"].update(text, head_dim=HEAD_DIM, vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_POSITIONS,
                            rms_norm_eps=RMS_NORM_EPS, tie_word_embeddings=shape["tied"],
                            rope_parameters={"rope_theta": shape["text"]["rope_theta"], "rope_type": "default"})
    return c


def write_folder(name, folder):
    vision = SHAPES[name]["vision"]
    image, processor = demo_json("preprocessor_config.json"), demo_json("processor_config.json")
    image["max_image_size"] = image["video_sampling"]["video_size"] = {"longest_edge": vision["image_size"]}
    image["size"] = {"longest_edge": vision["longest_edge"]}
    processor["image_seq_len"] = vision["image_seq_len"]
    os.makedirs(folder, exist_ok=True)
    for file in TOKENIZER:
        shutil.copy(os.path.join(DEMO, file), folder)
    contents = {"config.json": config(name), "preprocessor_config.json": image, "processor_config.json": processor}
    for file, content in contents.items():
        with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2)


if __name__ == "__main__":
    write_folder(*sys.argv[1:])
