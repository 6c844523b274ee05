"""The Hugging Face side of the exporter: a folder's files and tensors.

Nothing here knows the .smol format. Every file that is read is remembered, so that the provenance can name it. Two other
sources are seen as if they were such a folder: Mistral's own files (consolidated.py) and GGUF (gguf_file.py).
"""

import json
import os
import re
from collections import namedtuple
from contextlib import contextmanager

import ml_dtypes  # noqa: F401  gives numpy the type bfloat16, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open

# What is fetched from the hub. Repositories also hold ONNX files and training state, which are large.
HUB_FILES = [
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json",
    "chat_template.jinja", "tekken.json", "tokenizer.model", "tokenizer.model.v*", "README.md",
    "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "params.json",  # so that a repository with Mistral's own files alone is known
]

SMOLVLM, LLAMA = 1, 2  # families (FORMAT.md)

# Other names under which the same tensors are published. The first prefix that fits is replaced, once.
ALIASES = {
    SMOLVLM: [
        ("model.text_model.model.", "model.text_model."),
        ("model.text_model.lm_head.", "lm_head."),
        ("model.language_model.", "model.text_model."),
        ("language_model.model.", "model.text_model."),  # this one and all below: MLX
        ("language_model.lm_head.", "lm_head."),
        ("language_model.", "model.text_model."),
        ("vision_model.", "model.vision_model."),
        ("connector.", "model.connector."),
    ],
    LLAMA: [
        ("language_model.model.", "model."),  # Mistral3 on the hub
        ("language_model.lm_head.", "lm_head."),
        ("model.language_model.", "model."),  # and as transformers 5 saves it
    ],
}
# What is not exported: buffers that old versions saved, which are computed from the configuration, and the eye of Mistral3.
LEFT_OUT = {
    SMOLVLM: re.compile(r"\.rotary_emb\.inv_freq$|\.vision_model\.embeddings\.position_ids$"),
    LLAMA: re.compile(r"\.rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\."),
}

DTYPES = ("F32", "F16", "BF16")


class ExportError(Exception):
    """Something about the source that the user can put right, in one line."""


def require(condition, message):
    if not condition:
        raise ExportError(message)


# ---- the folder ----

class Folder:
    """A local folder, or a hub repository's snapshot, and which of its files were read."""

    hub_files = HUB_FILES
    weights = "model"  # .safetensors, or an index of several

    def __init__(self, source, revision=None):
        self.revision = revision
        self.made = {}  # JSON objects in place of files that the folder does not have
        if os.path.isdir(source):
            self.path = os.path.realpath(source)
            self.name = os.path.basename(self.path)  # not the whole path: the same input, the same bytes out
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.exists(source):
            self.path = download(source, revision, self.hub_files)
            self.name = source
            self.revision = os.path.basename(self.path)  # the commit that the name stood for
        else:
            raise ExportError(f"{source}: no such folder, and not the name of a hub repository")
        self.used = set()

    def has(self, name):
        return name in self.made or os.path.isfile(os.path.join(self.path, name))

    def file(self, name):
        """The path of a file that must be there."""
        require(os.path.isfile(os.path.join(self.path, name)), f"{name} is missing in {self.path}")
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
        if name in self.made:
            return self.made[name]
        if optional and not self.has(name):
            return {}
        try:
            value = json.loads(self.text(name))
        except (json.JSONDecodeError, RecursionError) as e:
            raise ExportError(f"{name}: not JSON: {e}") from None
        require(isinstance(value, dict), f"{name}: not a JSON object")
        return value

    def checkpoint(self, c):
        """The tensors, for a configuration."""
        return Checkpoint(self, c.family)

    def license(self):
        """What the model card's first lines say, or None."""
        if not self.has("README.md"):
            return None
        head = self.text("README.md").split("\n---", 1)[0]
        found = re.search(r"^license: *([\w.-]+)", head, re.MULTILINE) if head.startswith("---") else None
        return found.group(1) if found else None


def download(repo, revision, files):
    """Fetches a repository (or finds it in the hub's cache) and returns the folder of its snapshot."""
    try:
        from huggingface_hub import snapshot_download
        return snapshot_download(repo, revision=revision, allow_patterns=files)
    except Exception as e:  # a dozen kinds, from no network to no permission; all have a text
        raise ExportError(f"{repo}: cannot fetch it from the hub: {str(e) or type(e).__name__}") from None


# ---- the tensors ----

# A tensor: its file, its name in there, and the length of a head if the rows of each head lie as pairs (2i, 2i + 1) of what
# the rotary positions turn, in place of Hugging Face's halves (i, i + length / 2).
Entry = namedtuple("Entry", "file stored dtype shape paired", defaults=(0,))


class Checkpoint:
    """The tensors of a folder under their present names, in one safetensors file or many."""

    def __init__(self, folder, family):
        self.folder, self.family = folder, family
        self.entries = {}
        for shard in shard_names(folder):
            with open_shard(folder.file(shard), shard) as f:
                for stored in f.keys():
                    piece = f.get_slice(stored)
                    self.add(Entry(shard, stored, piece.get_dtype(), tuple(piece.get_shape())), stored)

    def add(self, entry, name):
        """name: what Hugging Face calls the tensor now, or once did."""
        name = next((new + name[len(old):] for old, new in ALIASES[self.family] if name.startswith(old)), name)
        if LEFT_OUT[self.family].search(name):
            return
        require(name not in self.entries, f"{name} is there twice, the second time as {entry.stored} in {entry.file}")
        require(entry.dtype in DTYPES, f"{entry.stored} is of type {entry.dtype}, not one of {', '.join(DTYPES)}")
        self.entries[name] = entry

    @contextmanager
    def reader(self, entry):
        """Gives a function: rows a .. b - 1 as they are stored.

        The file is opened anew for each tensor: it is mapped, and pages of a mapping that stays open would pile up until
        the whole file counts as memory in use.
        """
        with open_shard(os.path.join(self.folder.path, entry.file), entry.file) as f:
            tensor = f.get_slice(entry.stored)
            yield lambda a, b: tensor[a:b]

    def rows(self, name, shape, step):
        """The tensor, step rows at a time, as f32 arrays of shape (rows, columns). A vector is one row."""
        entry = self.entries[name]
        channels_last = entry.shape != shape  # only a convolution, see check()
        n, step = shape[0], step if len(shape) > 1 else shape[0]
        with self.reader(entry) as read:
            for r in range(0, n, step):
                end = min(r + step, n)
                x = unpaired(read, r, end, entry.paired) if entry.paired else read(r, end)
                x = (x.transpose(0, 3, 1, 2) if channels_last else x).astype(np.float32)
                require(np.isfinite(x).all(), f"{name} holds a NaN or an infinity")
                yield x.reshape(end - r if len(shape) > 1 else 1, -1)

    def check(self, name, shape):
        """The tensor must be there in this shape. MLX keeps convolutions as (out, y, x, channel)."""
        require(name in self.entries, f"{name} is missing")
        stored = self.entries[name].shape
        mlx = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        require(stored in (shape, mlx), f"{name} is {list(stored)}, not {list(shape)}")


def unpaired(read, begin, end, head_dim):
    """Rows begin .. end - 1 in Hugging Face's order, of a matrix whose heads lie as pairs: first all rows 2i of a head, then
    all rows 2i + 1."""
    first = begin // head_dim * head_dim
    x = read(first, -(-end // head_dim) * head_dim)
    halves = x.reshape(-1, head_dim // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
    return halves[begin - first:end - first]


def hugging_face_name(name, layers, names, layer_names):
    """Of a tensor called {stem}.weight or {layers}.{i}.{stem}.weight, each kind with its own table of stems; what is not known
    keeps its name, and is refused as one too many."""
    stem = name.removesuffix(".weight")
    layer = re.fullmatch(layers + r"\.(\d+)\.(.+)", stem)
    if layer and layer[2] in layer_names:
        return f"model.layers.{layer[1]}.{layer_names[layer[2]]}.weight"
    return f"{names[stem]}.weight" if stem in names else name


def shard_names(folder):
    whole = folder.weights + ".safetensors"
    index = whole + ".index.json"
    if folder.has(whole):
        return [whole]
    require(folder.has(index), f"{whole} is missing in {folder.path} (nor is there an index of several)")
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
