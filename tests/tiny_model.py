"""Makes tiny, complete, random SmolVLM folders as Hugging Face publishes them.

    make_folder("/tmp/tiny", dim=48, n_heads=6, n_kv_heads=2, tie=True)

writes config.json, safetensors, tokenizer.json, processor configs, chat template and generation config. Every
dimension differs from every other where it can, so that a swapped axis shows; norms and biases are not 1 and 0, so
that a forgotten one shows. The same arguments give the same bytes. The last rows of the embedding table have no token
unless vocab_size is below 627: the corpus gives no more merges.

As a program: python tests/tiny_model.py FOLDER [name=value ...]
"""

import ast
import json
import os
import sys

# The 21 byte values that no token of the real vocabulary stands for: they are dropped, and here too.
MISSING_BYTES = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2} | set(range(0xF5, 0x100))

BASE_SPECIALS = """<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars>
    <issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output>
    <jupyter_script> <empty_output>""".split()
TILE_SPECIALS = ["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
N_RESERVED = 4  # the real vocabulary has 88 of them

# The template of all SmolVLM repositories, byte for byte.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == "
    "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

CORPUS = """
You are provided the following series of four frames from a 0:00:09 [H:MM:SS] video. Frame from 00:01:
User: Can you describe this image? Assistant: The image shows a red car on the street, next to a small house.
What is written on the sign? It says "STOP". How many people are there? There are two people and a dog.
What is the total of the receipt? The total is 42.50 euros. Answer with a single word. Yes. No.
    def main():\n\tfor i in range(10):\n        print(i)\n\n\n
we'll they've I'm don't it's you're he'd. Grüße aus Köln, à bientôt, señor. 日本語のテキスト и немного текста.
emoji 🚀 stars ✨ one\r\ntwo  three   four
The quick brown fox jumps over the lazy dog. This picture is an example of what a small model can see in it.
"""

DEFAULTS = dict(
    architecture="SmolVLM",  # or "Idefics3"
    # vision: 36 / 8 leaves 4 pixels unused, as 384 / 14 does in the 2.2B model
    image_size=36, patch_size=8, scale_factor=2, v_dim=24, v_heads=3, v_layers=2, v_hidden_dim=52,
    # text: grouped queries, and a head_dim that is not dim / n_heads
    dim=40, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=72, n_layers=3, vocab_size=640, max_positions=1024,
    rms_norm_eps=1e-5, rope_theta=100000.0, tie=False,
    # processor
    longest_edge=None,  # None: 4 * image_size
    tile_tokens=True,   # False: as the first 2.2B model, whose vocabulary has no <row_1_col_1> and no <global-img>
    video=True,
    # file
    seed=1, dtype="float32", style="new",  # "old": the files as transformers 4 wrote them
    max_shard_size="10GB",
)


def make_folder(path, **overrides):
    """Writes the folder and returns its path. Overrides: any name of DEFAULTS."""
    unknown = set(overrides) - set(DEFAULTS)
    if unknown:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    o = {**DEFAULTS, **overrides}
    if o["longest_edge"] is None:
        o["longest_edge"] = 4 * o["image_size"]
    tokenizer = make_tokenizer(o["vocab_size"], o["tile_tokens"])
    return write_folder(str(path), o, tokenizer, make_model(o, tokenizer))


def write_folder(path, o, tokenizer, model):
    """The folder of a model and its tokenizer; o has every name of DEFAULTS."""
    os.makedirs(path, exist_ok=True)
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    model.save_pretrained(path, max_shard_size=o["max_shard_size"])
    if o["style"] == "old":
        age_config(path)
    write_processor(path, o)
    write_chat(path, o)
    write_json(path, "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 0, "pad_token_id": 2, "transformers_version": "4.47.1",
        "eos_token_id": tokenizer.token_to_id("<end_of_utterance>")})
    return path


def make_tokenizer(vocab_size, tile_tokens=True):
    """A byte-level BPE laid out as the real one: specials, bytes, merges, then the added tokens, the end last."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    added = (TILE_SPECIALS if tile_tokens else []) + ["<fake_token_around_image>", "<image>"]
    if tile_tokens:
        added += [f"<|reserved_special_token_{i}|>" for i in range(N_RESERVED)]
    added.append("<end_of_utterance>")
    alphabet = [c for b, c in byte_alphabet().items() if b not in MISSING_BYTES]
    n_base = vocab_size - len(added)
    if n_base < len(BASE_SPECIALS) + len(alphabet):
        raise ValueError(f"vocab_size {vocab_size} is too small")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS.split("\n\n\n"), trainers.BpeTrainer(
        vocab_size=n_base, special_tokens=BASE_SPECIALS, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in added])
    return tokenizer


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def make_model(o, tokenizer):
    """A random SmolVLMForConditionalGeneration or Idefics3ForConditionalGeneration."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    end = tokenizer.token_to_id("<end_of_utterance>")
    config = getattr(transformers, o["architecture"] + "Config")(
        image_token_id=tokenizer.token_to_id("<image>"), tie_word_embeddings=o["tie"], scale_factor=o["scale_factor"],
        vision_config=dict(
            hidden_size=o["v_dim"], intermediate_size=o["v_hidden_dim"], num_hidden_layers=o["v_layers"],
            num_attention_heads=o["v_heads"], image_size=o["image_size"], patch_size=o["patch_size"],
            hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6),
        text_config=dict(
            model_type="llama", hidden_size=o["dim"], intermediate_size=o["hidden_dim"],
            num_hidden_layers=o["n_layers"], num_attention_heads=o["n_heads"], num_key_value_heads=o["n_kv_heads"],
            head_dim=o["head_dim"], vocab_size=o["vocab_size"], rms_norm_eps=o["rms_norm_eps"],
            max_position_embeddings=o["max_positions"], tie_word_embeddings=o["tie"],
            rope_parameters=dict(rope_type="default", rope_theta=o["rope_theta"]),
            bos_token_id=1, eos_token_id=end, pad_token_id=2))
    model = getattr(transformers, o["architecture"] + "ForConditionalGeneration")(config).eval()
    fill(model, o["seed"])
    return model.to(getattr(torch, o["dtype"]))


def fill(model, seed):
    """Random weights of sizes that keep the activations of order 1. A tied table is one parameter and is filled once."""
    import numpy as np
    import torch

    random = np.random.RandomState(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "norm" in name and name.endswith("weight"):
                scale, offset = 0.2, 1.0
            elif name.endswith("bias"):
                scale, offset = 0.1, 0.0
            elif "embed_tokens" in name or "position_embedding" in name or name == "lm_head.weight":
                scale, offset = 0.6, 0.0
            else:
                scale, offset = 1.3 / p[0].numel() ** 0.5, 0.0
            p.copy_(torch.from_numpy(near_normal(random, p.shape, scale) + np.float32(offset)))


def near_normal(random, shape, scale):
    """Sums of four uniform integers times a float: nearly normal, and the same bits on every machine, which torch.randn
    does not give (its vectorised logarithm depends on the processor)."""
    import numpy as np

    n = int(np.prod(shape))
    sums = np.frombuffer(random.bytes(8 * n), "<i2").reshape(4, n).sum(0, dtype=np.int32)
    deviation = 2 * 65536 / 12 ** 0.5  # of four numbers uniform in -32768 .. 32767
    return sums.astype(np.float32).reshape(shape) * np.float32(scale / deviation)


def age_config(path):
    """Rewrites config.json in the style of transformers 4: rope_theta, torch_dtype, the leftovers of Idefics3-8B."""
    config = read_json(path, "config.json")
    text = config["text_config"]
    theta = text.pop("rope_parameters")["rope_theta"]
    text["rope_theta"] = int(theta) if theta == int(theta) else theta
    for c in (config, text, config["vision_config"]):
        if "dtype" in c:
            c["torch_dtype"] = c.pop("dtype")
    config.pop("_pad_token_id", None)
    config.update(pad_token_id=128002, transformers_version="4.47.1", vocab_size=text["vocab_size"])
    text["perceiver_config"] = {"hidden_act": "silu", "num_key_value_heads": 1, "tie_word_embeddings": True}
    write_json(path, "config.json", config)


def write_processor(path, o):
    """preprocessor_config.json and processor_config.json, or in the new style one file with the other nested in it."""
    grid = o["image_size"] // o["patch_size"]
    image_processor = {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1,
        "image_processor_type": o["architecture"] + "ImageProcessor",
        "max_image_size": {"longest_edge": o["image_size"]}, "size": {"longest_edge": o["longest_edge"]},
        "rescale_factor": 0.00392156862745098}
    if o["video"]:
        image_processor["video_sampling"] = {
            "fps": 1, "max_frames": 64, "video_size": {"longest_edge": o["image_size"]}}
    processor = {"image_seq_len": (grid // o["scale_factor"]) ** 2, "processor_class": o["architecture"] + "Processor"}
    if o["style"] == "old":
        write_json(path, "preprocessor_config.json", image_processor)
    else:
        processor["image_processor"] = image_processor
    write_json(path, "processor_config.json", processor)


def write_chat(path, o):
    """tokenizer_config.json, and the chat template where that generation of transformers put it."""
    config = {
        "add_prefix_space": False, "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
        "model_max_length": o["max_positions"], "processor_class": o["architecture"] + "Processor",
        "tokenizer_class": "GPT2Tokenizer"}
    roles = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
             "end_of_utterance_token": "<end_of_utterance>"}
    if o["tile_tokens"]:
        roles["global_image_token"] = "<global-img>"
    config["extra_special_tokens"] = roles
    if o["style"] == "old":
        config["chat_template"] = CHAT_TEMPLATE
        write_json(path, "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    else:
        with open(os.path.join(path, "chat_template.jinja"), "w", encoding="utf-8", newline="\n") as f:
            f.write(CHAT_TEMPLATE)
    write_json(path, "tokenizer_config.json", config)


def read_json(path, name):
    with open(os.path.join(path, name), encoding="utf-8") as f:
        return json.load(f)


def write_json(path, name, value):
    with open(os.path.join(path, name), "w", encoding="utf-8", newline="\n") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")


def literal(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(make_folder(sys.argv[1], **{k: literal(v) for k, v in (a.split("=", 1) for a in sys.argv[2:])}))
