"""The Hugging Face side of the exporter: a folder's JSON files, chat template and tensors.

Nothing here knows the .smol format. Every file that is read is remembered, so that the provenance can name it.
"""

import json
import os
import re

import ml_dtypes  # noqa: F401  gives numpy the type bfloat16, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open

# What is fetched from the hub. Repositories also hold ONNX files and training state, which are large.
HUB_FILES = [
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json",
    "chat_template.jinja", "README.md", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
]

# Other names under which the same tensors are published. The first prefix that fits is replaced, once.
ALIASES = [
    ("model.text_model.model.", "model.text_model."),
    ("model.text_model.lm_head.", "lm_head."),
    ("model.language_model.", "model.text_model."),
    ("language_model.model.", "model.text_model."),  # this one and all below: MLX
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model.text_model."),
    ("vision_model.", "model.vision_model."),
    ("connector.", "model.connector."),
]
# Buffers that old versions saved: they are computed from the configuration.
HARMLESS = re.compile(r"\.rotary_emb\.inv_freq$|\.vision_model\.embeddings\.position_ids$")

DTYPES = ("F32", "F16", "BF16")


class ExportError(Exception):
    """Something about the source that the user can put right, in one line."""


def require(condition, message):
    if not condition:
        raise ExportError(message)


# ---- the folder ----

class Folder:
    """A local folder, or a hub repository's snapshot, and which of its files were read."""

    def __init__(self, source, revision=None):
        self.revision = revision
        if os.path.isdir(source):
            self.path = os.path.realpath(source)
            self.name = os.path.basename(self.path)  # not the whole path: the same input, the same bytes out
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.exists(source):
            self.path = download(source, revision)
            self.name = source
            self.revision = os.path.basename(self.path)  # the commit that the name stood for
        else:
            raise ExportError(f"{source}: no such folder, and not the name of a hub repository")
        self.used = set()

    def has(self, name):
        return os.path.isfile(os.path.join(self.path, name))

    def file(self, name):
        """The path of a file that must be there."""
        require(self.has(name), f"{name} is missing in {self.path}")
        self.used.add(name)
        return os.path.join(self.path, name)

    def text(self, name):
        with open(self.file(name), encoding="utf-8") as f:
            try:
                return f.read()
            except UnicodeDecodeError as e:
                raise ExportError(f"{name}: not UTF-8: {e}") from None

    def json(self, name, optional=False):
        """A JSON object; an empty one if the file is optional and missing."""
        if optional and not self.has(name):
            return {}
        try:
            value = json.loads(self.text(name))
        except (json.JSONDecodeError, RecursionError) as e:
            raise ExportError(f"{name}: not JSON: {e}") from None
        require(isinstance(value, dict), f"{name}: not a JSON object")
        return value

    def license(self):
        """What the model card's first lines say, or None."""
        if not self.has("README.md"):
            return None
        head = self.text("README.md").split("\n---", 1)[0]
        found = re.search(r"^license: *([\w.-]+)", head, re.MULTILINE) if head.startswith("---") else None
        return found.group(1) if found else None


def download(repo, revision):
    """Fetches a repository (or finds it in the hub's cache) and returns the folder of its snapshot."""
    try:
        from huggingface_hub import snapshot_download
        return snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES)
    except Exception as e:  # a dozen kinds, from no network to no permission; all have a text
        raise ExportError(f"{repo}: cannot fetch it from the hub: {str(e) or type(e).__name__}") from None


# ---- the chat template ----

def chat_template(folder):
    """The template's text, wherever that generation of transformers put it, or None."""
    if folder.has("chat_template.jinja"):
        return folder.text("chat_template.jinja")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = folder.json(name, optional=True).get("chat_template")
        if isinstance(template, list):  # several named ones
            template = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}.get("default")
        if isinstance(template, str):
            return template
    return None


IMAGE = None  # in the conversations below
CONVERSATIONS = [
    [("user", "What is the capital of France?")],
    [("user", IMAGE, "Can you describe this image?")],
    [("user", "What colour is the car? ", IMAGE)],
    [("user", IMAGE, IMAGE, "Compare.", " Briefly.")],
    [("system", "You are  a helpful\nassistant."), ("user", IMAGE, "What is <this>?")],
    [("user", IMAGE, "Describe."), ("assistant", "A cat."), ("user", "What breed?"), ("assistant", " Siamese & co")],
]


def smolvlm_chat(messages, cue):
    """SmolVLM's chat format: what the engine writes, and what a template must write to be called SmolVLM's."""
    text = "<|im_start|>"
    for role, *items in messages:
        text += role.capitalize() + (":" if items[0] is IMAGE else ": ")
        text += "".join("<image>" if item is IMAGE else item for item in items) + "<end_of_utterance>\n"
    return text + ("Assistant:" if cue else "")


def is_smolvlm_template(template):
    """Renders the conversations as transformers would. Comparing what comes out, not the template's own text, lets
    later revisions through (a branch for videos, other line breaks)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        compiled = environment.from_string(template)
        for messages in CONVERSATIONS:
            chat = [{"role": role, "content": [{"type": "image"} if item is IMAGE else {"type": "text", "text": item}
                                               for item in items]} for role, *items in messages]
            for cue in (False, True):
                if compiled.render(messages=chat, add_generation_prompt=cue) != smolvlm_chat(messages, cue):
                    return False
    except Exception:  # a template is a program: whatever goes wrong in it, it is not SmolVLM's
        return False
    return True


# ---- the tensors ----

class Checkpoint:
    """The tensors of a folder under their present names, in one safetensors file or many."""

    def __init__(self, folder):
        self.entries = {}  # name: (file, name in the file, dtype, shape)
        for shard in shard_names(folder):
            with open_shard(folder.file(shard), shard) as f:
                for stored in f.keys():
                    piece = f.get_slice(stored)
                    self.add(stored, shard, piece.get_dtype(), tuple(piece.get_shape()))
        self.path = folder.path

    def add(self, stored, shard, dtype, shape):
        name = next((new + stored[len(old):] for old, new in ALIASES if stored.startswith(old)), stored)
        if HARMLESS.search(name):
            return
        require(name not in self.entries, f"{name} is there twice, the second time as {stored} in {shard}")
        require(dtype in DTYPES, f"{stored} is of type {dtype}, not one of {', '.join(DTYPES)}")
        self.entries[name] = (shard, stored, dtype, shape)

    def rows(self, name, shape, step):
        """The tensor, step rows at a time, as f32 arrays of shape (rows, columns). A vector is one row.

        Its file is opened anew for each tensor: it is mapped, and pages of a mapping that stays open would pile up
        until the whole file counts as memory in use.
        """
        shard, stored, _, stored_shape = self.entries[name]
        channels_last = stored_shape != shape  # only a convolution, see check()
        with open_shard(os.path.join(self.path, shard), shard) as f:
            tensor = f.get_slice(stored)
            n = shape[0] if len(shape) > 1 else 1
            for r in range(0, n, step):
                x = tensor[r:min(r + step, n)] if len(shape) > 1 else tensor[:]
                x = (x.transpose(0, 3, 1, 2) if channels_last else x).astype(np.float32)
                require(np.isfinite(x).all(), f"{name} holds a NaN or an infinity")
                yield x.reshape(min(step, n - r), -1)

    def check(self, name, shape):
        """The tensor must be there in this shape. MLX keeps convolutions as (out, y, x, channel)."""
        require(name in self.entries, f"{name} is missing")
        stored = self.entries[name][3]
        mlx = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        require(stored in (shape, mlx), f"{name} is {list(stored)}, not {list(shape)}")


def shard_names(folder):
    if folder.has("model.safetensors"):
        return ["model.safetensors"]
    index = "model.safetensors.index.json"
    require(folder.has(index), f"model.safetensors is missing in {folder.path} (nor is there an index of several)")
    names = folder.json(index).get("weight_map")
    require(isinstance(names, dict) and names
            and all(isinstance(n, str) and n == os.path.basename(n) for n in names.values()),
            f"{index}: weight_map is not a table of file names")
    return sorted(set(names.values()))


def open_shard(path, name):
    try:
        return safe_open(path, "np")
    except SafetensorError as e:
        raise ExportError(f"{name} is damaged: {e}") from None
