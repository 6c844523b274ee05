"""What the inputs of every matrix look like, found by running the reference model over texts and pictures.

transformers and torch are needed for this alone, so they are imported only here.
"""

import glob
import os

import numpy as np

from tqdm import tqdm

from source import SMOLVLM, require
from template import IMAGE, smolvlm_chat

WINDOWS, WINDOW = 16, 512  # pieces of text, tokens of each
PICTURES, PICTURE_NAMES = 16, (".png", ".jpg", ".jpeg", ".bmp", ".ppm")
WIDEST = 4608  # columns: of wider matrices, mean squares alone are kept, for the products would fill the memory
QUESTION = "Describe this picture."


class Moments:
    """Of the inputs of one matrix: the sum of x x^T, or of x^2 for wide ones."""

    def __init__(self, n_cols):
        self.sum, self.n = np.zeros((n_cols, n_cols) if n_cols <= WIDEST else n_cols, np.float32), 0

    def add(self, x):
        self.sum += x.T @ x if self.sum.ndim == 2 else np.square(x).sum(0)
        self.n += len(x)

    def mean_squares(self):
        return (self.sum if self.sum.ndim == 1 else self.sum.diagonal()) / self.n

    def divide(self, factor):
        """The inputs were divided by a factor for each column."""
        self.sum /= factor * factor if self.sum.ndim == 1 else np.outer(factor, factor)


def files(material, with_pictures=True):
    """The texts and pictures of a folder, or the one file."""
    paths = sorted(glob.glob(os.path.join(material, "*"))) if os.path.isdir(material) else [material]
    texts = [p for p in paths if p.lower().endswith(".txt")]
    pictures = [p for p in paths if p.lower().endswith(PICTURE_NAMES)][:PICTURES] if with_pictures else []
    require(texts or pictures, f"{material}: nothing to calibrate with: no text (.txt){' or picture' if with_pictures else ''}")
    return texts + pictures


def calibrate(folder, c, material, quiet=False):
    """Name of a matrix to the Moments of its inputs. folder: of the checkpoint; c: its configuration."""
    import torch

    require(os.path.isfile(os.path.join(folder, "config.json")), "--calibrate needs a Hugging Face folder")
    model, tokenizer, processor = load(folder, c)
    moments, last = {}, [None, None]

    def watch(name):
        def hook(module, args):
            if args[0] is not last[0]:  # query, key and value see the same input, and share its moments
                last[:] = args[0], moments.get(name) or Moments(module.weight[0].numel())
                last[1].add(columns(module, args[0]))
            moments[name] = last[1]
        return hook

    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_pre_hook(watch(name + ".weight"))
    paths = files(material, with_pictures=processor is not None)
    n_texts = sum(not path.lower().endswith(PICTURE_NAMES) for path in paths)
    with torch.no_grad():
        for path in tqdm(paths, desc="calibrate", unit="file", disable=True if quiet else None):
            for inputs in examples(path, n_texts, tokenizer, processor):
                model(**inputs, use_cache=False)
    return moments


def columns(module, x):
    """The rows that the matrix multiplies, as (n, n_cols)."""
    import torch

    if isinstance(module, torch.nn.Conv2d):
        x = torch.nn.functional.unfold(x, module.kernel_size, stride=module.stride).transpose(1, 2)
    return x.reshape(-1, x.shape[-1]).float().numpy()


def load(folder, c):
    """The model, its tokenizer, and for a model with eyes its processor."""
    import transformers

    kind = transformers.AutoModelForImageTextToText if c.family == SMOLVLM else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype="float32").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model, tokenizer, load_processor(folder, c, type(model), tokenizer) if c.family == SMOLVLM else None


def load_processor(folder, c, model, tokenizer):
    """AutoProcessor would do, but it wants torchvision, for videos; pictures need only Pillow."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    class WithoutVideo(SmolVLMProcessor):
        def check_argument_for_proper_class(self, name, argument):
            if name != "video_processor":
                return super().check_argument_for_proper_class(name, argument)

    if model.__name__.startswith("Idefics3"):
        return Idefics3Processor(Idefics3ImageProcessorPil.from_pretrained(folder), tokenizer, c.image_seq_len)
    images = SmolVLMImageProcessorPil.from_pretrained(folder)
    return WithoutVideo(images, tokenizer, SmolVLMVideoProcessor(), c.image_seq_len)


def examples(path, n_texts, tokenizer, processor):
    """Inputs of the model: a picture with a question, or windows spread over a text."""
    import torch
    from PIL import Image

    if path.lower().endswith(PICTURE_NAMES):
        prompt = smolvlm_chat([("user", IMAGE, QUESTION)], cue=True)
        yield processor(text=prompt, images=[Image.open(path).convert("RGB")], return_tensors="pt")
        return
    with open(path, encoding="utf-8") as f:
        ids = torch.tensor(tokenizer.encode(f.read(), add_special_tokens=False))
    count = min(-(-WINDOWS // n_texts), -(-len(ids) // WINDOW))
    for start in np.linspace(0, max(len(ids) - WINDOW, 0), count).astype(int):
        yield {"input_ids": ids[None, start:start + WINDOW]}
