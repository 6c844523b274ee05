"""The configuration: from a folder's JSON files to the 512 bytes at the start of a .smol file."""

import math
import struct
from types import SimpleNamespace

from source import LLAMA, SMOLVLM, ExportError, require

HEADER_BYTES = 512
NONE = 0xFFFFFFFF

# FORMAT.md's table, line by line: offset, type (as in struct), field, and for a field that is copied from the source,
# where it stands and what it is when it does not stand there: the default of transformers' class. The first word of
# a place is a key of read_sources(). A default of None is filled in by complete().
HEADER = [
    (0, "4s", "magic"),
    (4, "I", "version"),
    (8, "Q", "file_bytes"),
    (16, "Q", "tokenizer_offset"),
    (24, "Q", "tokenizer_bytes"),
    (32, "Q", "provenance_offset"),
    (40, "Q", "provenance_bytes"),
    (48, "Q", "directory_offset"),
    (56, "I", "n_tensors"),
    (60, "I", "weight_type"),
    (64, "I", "family"),
    (68, "I", "template"),
    # text decoder: LlamaConfig
    (72, "I", "dim", "text.hidden_size", 4096),
    (76, "I", "hidden_dim", "text.intermediate_size", 11008),
    (80, "I", "n_layers", "text.num_hidden_layers", 32),
    (84, "I", "n_heads", "text.num_attention_heads", 32),
    (88, "I", "n_kv_heads", "text.num_key_value_heads", None),
    (92, "I", "head_dim", "text.head_dim", None),
    (96, "I", "vocab_size", "text.vocab_size", 32000),
    (100, "I", "max_positions", "text.max_position_embeddings", 2048),
    (104, "f", "rms_norm_eps", "text.rms_norm_eps", 1e-6),
    (108, "f", "rope_theta"),
    (112, "I", "tied"),
    (116, "I", "act"),
    # vision encoder: SmolVLMVisionConfig, and SmolVLMConfig for the connector; Idefics3's have the same defaults
    (120, "I", "image_size", "vision.image_size", 224),
    (124, "I", "patch_size", "vision.patch_size", 32),
    (128, "I", "v_dim", "vision.hidden_size", 1152),
    (132, "I", "v_hidden_dim", "vision.intermediate_size", 3072),
    (136, "I", "v_layers", "vision.num_hidden_layers", 12),
    (140, "I", "v_heads", "vision.num_attention_heads", 16),
    (144, "f", "v_eps", "vision.layer_norm_eps", 1e-6),
    (148, "I", "v_act"),
    (152, "I", "scale_factor", "config.scale_factor", 2),
    # processor: SmolVLMImageProcessor, SmolVLMProcessor
    (156, "I", "tile_size", "image.max_image_size.longest_edge", 364),
    (160, "I", "longest_edge", "image.size.longest_edge", 4 * 364),
    (164, "I", "image_seq_len", "processor.image_seq_len", 169),
    (168, "I", "do_image_splitting", "image.do_image_splitting", True),
    (172, "I", "resample", "image.resample", 1),
    (176, "d", "rescale_factor", "image.rescale_factor", 1 / 255),
    (184, "3f", "image_mean", "image.image_mean", [0.5, 0.5, 0.5]),
    (196, "3f", "image_std", "image.image_std", [0.5, 0.5, 0.5]),
    # video: 0 where the model has none
    (208, "I", "video_max_frames", "video.max_frames", 0),
    (212, "I", "video_size", "video.video_size.longest_edge", 0),
    (216, "d", "video_fps", "video.fps", 0),
    # tokens
    (224, "I", "bos_id", "generation.bos_token_id", NONE),
    (228, "I", "pad_id", "generation.pad_token_id", NONE),
    (232, "I", "image_token_id", "config.image_token_id", 128257),
    (236, "I", "n_eos"),
    (240, "4I", "eos_id"),
]

# MistralConfig's defaults, where they are not LlamaConfig's. It has another one, a sliding_window of 4096: see check_window().
MISTRAL = {
    "text.model_type": "mistral",
    "text.intermediate_size": 14336,
    "text.num_key_value_heads": 8,
    "text.max_position_embeddings": 4096 * 32,
}

# What the engine does in one way only. A field that is not there has the class's default, which is the same value.
FIXED = [
    ("text.model_type", "llama"),
    ("text.hidden_act", "silu"),
    ("text.attention_bias", False),
    ("text.mlp_bias", False),
    ("vision.hidden_act", "gelu_pytorch_tanh"),
    ("vision.num_channels", 3),
    ("image.do_convert_rgb", True),
    ("image.do_resize", True),
    ("image.do_rescale", True),
    ("image.do_normalize", True),
    ("image.resample", 1),  # LANCZOS
]

# The engine's bounds (FORMAT.md): far above any model of this family, so that no product of sizes can overflow.
BOUNDS = {
    "dim": 1 << 16, "hidden_dim": 1 << 18, "n_layers": 512, "n_heads": 1024, "n_kv_heads": 1024, "head_dim": 1024,
    "vocab_size": 1 << 20, "max_positions": 1 << 20, "image_size": 4096, "patch_size": 256, "v_dim": 1 << 16,
    "v_hidden_dim": 1 << 18, "v_layers": 512, "v_heads": 1024, "scale_factor": 16, "tile_size": 4096,
    "longest_edge": 1 << 15, "image_seq_len": 1 << 20, "rms_norm_eps": 1, "v_eps": 1, "rescale_factor": 1,
}

PICTURES = [field for offset, _, field, *_ in HEADER if 120 <= offset < 224]  # 0 where a model reads text only

FAMILIES = {
    "SmolVLMForConditionalGeneration": SMOLVLM, "Idefics3ForConditionalGeneration": SMOLVLM, "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA, "Mistral3ForConditionalGeneration": LLAMA,  # of the last, the text model
}


# ---- reading ----

def read_sources(folder):
    """The JSON objects that the header's fields come from, and what the configuration's class has as defaults."""
    config = folder.json("config.json")
    names = config.get("architectures")
    known = [n for n in names if n in FAMILIES] if isinstance(names, list) else []
    require(known, f"config.json: architectures is {names}, not one of {', '.join(FAMILIES)}")
    if FAMILIES[known[0]] == LLAMA:
        return read_text_sources(folder, config, known[0])
    processor = folder.json("processor_config.json")
    # transformers 5 nests the image processor here; before it had a file of its own
    image = part(processor, "image_processor") or folder.json("preprocessor_config.json")
    return {
        "family": SMOLVLM,
        "defaults": {},
        "config": config,
        "text": part(config, "text_config") or {"rms_norm_eps": 1e-5},  # the default of SmolVLMConfig as a whole
        "vision": part(config, "vision_config"),
        "processor": processor,
        "image": image,
        "video": video_sampling(folder, processor, image),
        "generation": folder.json("generation_config.json"),
    }


def read_text_sources(folder, config, architecture):
    text = part(config, "text_config") if architecture.startswith("Mistral3") else config
    require(text, "config.json: text_config is missing")
    # without the file, transformers takes the model's own tokens
    own = {"bos_token_id": 1, "eos_token_id": 2, **{k: v for k, v in text.items() if k.endswith("_token_id")}}
    return {
        "family": LLAMA,
        "defaults": MISTRAL if architecture.startswith("Mistral") else {},
        "config": config,
        "text": text,
        "generation": folder.json("generation_config.json", optional=True) or own,
    }


def part(parent, name):
    """An object in an object; an empty one where it is absent or null."""
    value = parent.get(name)
    require(value is None or isinstance(value, dict), f"{name} is {value!r}, not an object")
    return value or {}


def video_sampling(folder, processor, image):
    """fps, max_frames and video_size. transformers 5 can leave only a video processor, which renames them and replaces
    video_size by the size of pictures, so it is asked last."""
    video = part(processor, "video_processor") or folder.json("video_preprocessor_config.json", optional=True)
    if "num_frames" in video:
        own = {"max_frames": video["num_frames"], "fps": video.get("fps"), "video_size": video.get("size")}
    else:
        own = {}
    return part(image, "video_sampling") or part(video, "video_sampling") or own


def find(sources, place, default):
    """The value at a place such as text.hidden_size; the default where it is absent or null."""
    source, *outer, key = place.split(".")
    value = sources[source]
    for name in outer:
        value = part(value, name)
        # {"longest_edge": ..} is one of several ways to give a size, and the only one that is understood here
        require(not value or key in value, f"{place} is missing: {name} is {value}")
    value = value.get(key)
    return default if value is None else value


def number(place, value, kind):
    """Checks that JSON gave the kind of number that the field holds: a count, a float or three of them."""
    if kind == "3f":
        require(isinstance(value, list) and len(value) == 3, f"{place} is {value}, not three numbers")
        return [number(place, v, "f") for v in value]
    allowed = int if kind == "I" else (int, float)
    require(isinstance(value, allowed) and not isinstance(value, bool),
            f"{place} is {value!r}, not a {'whole ' if kind == 'I' else ''}number")
    require(math.isfinite(value), f"{place} is {value}")
    return value


def read_config(sources):
    """All fields of the header that describe the model, by name."""
    family, defaults = sources["family"], sources["defaults"]
    for place, value in (row for row in FIXED if row[0].split(".")[0] in sources):
        value = defaults.get(place, value)
        found = find(sources, place, value)
        require(found == value, f"{place} is {found!r}; only {value!r} is supported")
    c = SimpleNamespace(weight_type=0, family=family, act=1, v_act=1)
    for _, kind, field, place, default in (row for row in HEADER if len(row) == 5):
        if family == LLAMA and (field in PICTURES or field == "image_token_id"):
            continue
        value = find(sources, place, defaults.get(place, default))
        if isinstance(default, bool):
            require(isinstance(value, bool), f"{place} is {value!r}, not true or false")
            value = int(value)
        setattr(c, field, value if value is None else number(place, value, kind))
    c.rope_theta = rope_theta(sources["text"])
    c.eos_id = eos_ids(sources["generation"])
    c.n_eos = len(c.eos_id)
    complete(c)
    check(c)
    if defaults is MISTRAL:
        check_window(sources["text"], c.max_positions)
    return c


def check_window(text, max_positions):
    """Attention that sees only the last positions is not implemented. Absent, the field means 4096; null, no window."""
    window = text.get("sliding_window", 4096)
    if window is not None:
        number("text.sliding_window", window, "I")
        absent = "" if "sliding_window" in text else " where it is absent"
        require(window >= max_positions, f"text.sliding_window is {window}{absent}, less than the {max_positions} positions; "
                                         "only null is supported")


def rope_theta(text):
    """The base. transformers 4 wrote rope_theta and rope_scaling, 5 writes rope_parameters."""
    rope = part(text, "rope_parameters") or part(text, "rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind == "default", f"text_config: rope of type {kind!r} is not supported, only 'default'")
    partial = rope.get("partial_rotary_factor", text.get("partial_rotary_factor"))
    require(partial in (None, 1), f"text_config: partial_rotary_factor {partial!r} is not supported")
    theta = rope.get("rope_theta", text.get("rope_theta"))
    theta = number("text_config: rope_theta", 10000.0 if theta is None else theta, "f")
    require(theta > 0, f"text_config: rope_theta is {theta}")
    return theta


def eos_ids(generation):
    """The tokens that end an answer: one or a list."""
    eos = generation.get("eos_token_id")
    eos = eos if isinstance(eos, list) else [eos]
    require(1 <= len(eos) <= 4, f"generation_config.json: eos_token_id has {len(eos)} tokens, not one to four")
    return [number("generation_config.json: eos_token_id", e, "I") for e in eos]


def complete(c):
    """Fields whose default depends on others, as LlamaConfig fills them in, and those that a text model does not have."""
    require(c.n_heads > 0, f"n_heads is {c.n_heads}")
    if c.n_kv_heads is None:
        c.n_kv_heads = c.n_heads
    if c.head_dim is None:
        c.head_dim = c.dim // c.n_heads
    if c.family == LLAMA:
        vars(c).update({field: 0 for field in PICTURES}, image_mean=[0] * 3, image_std=[0] * 3, image_token_id=NONE)


def check(c):
    """What the numbers must be, and be among themselves. The engine checks all of this again."""
    for field, high in BOUNDS.items():
        value = getattr(c, field)
        if c.family == SMOLVLM or field not in PICTURES:
            require(0 < value <= high, f"{field} is {value}, not above 0 and at most {high}")
    require(c.n_heads % c.n_kv_heads == 0, f"n_kv_heads {c.n_kv_heads} does not divide n_heads {c.n_heads}")
    require(c.head_dim % 2 == 0, f"head_dim {c.head_dim} is odd")
    if c.family == SMOLVLM:
        check_pictures(c)
    optional = [i for i in (c.image_token_id, c.bos_id, c.pad_id) if i != NONE]
    for i in (*c.eos_id, *optional):
        require(0 <= i < c.vocab_size, f"token {i} is not in the vocabulary of {c.vocab_size}")


def check_pictures(c):
    require(c.v_dim % c.v_heads == 0, f"v_heads {c.v_heads} does not divide v_dim {c.v_dim}")
    require(c.tile_size == c.image_size, f"tile_size (max_image_size) {c.tile_size} is not image_size {c.image_size}")
    grid = c.image_size // c.patch_size
    require(grid > 0 and grid % c.scale_factor == 0 and c.image_seq_len == (grid // c.scale_factor) ** 2,
            f"image_seq_len {c.image_seq_len} does not fit image_size {c.image_size}, patch_size {c.patch_size} and "
            f"scale_factor {c.scale_factor}")
    require(all(s > 0 for s in c.image_std), f"image_std is {c.image_std}")


# ---- writing ----

def pack_header(c):
    """The 512 bytes."""
    header = bytearray(HEADER_BYTES)
    for offset, kind, field, *_ in HEADER:
        value = getattr(c, field)
        if field == "eos_id":
            value = value + [NONE] * (4 - len(value))
        try:
            struct.pack_into("<" + kind, header, offset, *(value if isinstance(value, list) else [value]))
        except (struct.error, OverflowError):
            raise ExportError(f"{field} {value} does not fit its place in the header") from None
    return bytes(header)
