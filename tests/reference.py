"""The reference: transformers' own classes run on a model folder, in f32 with eager attention on one thread.

    run = Reference(folder).run(config)

holds the prompt's ids, the pixel values, every stage's tensor and the greedy answer with its margins. Nothing is
replaced but one check: SmolVLMProcessor wants a video processor whose base class exists only beside torchvision, so the
class of that argument, which no picture touches, is not checked. The image processors are those that use Pillow.
"""

import importlib
import json
import os
from collections import namedtuple

import numpy as np
import torch
import transformers
from PIL import Image

from configs import N_NEW, picture

VERSION = "5.23.0"  # the reference moved between versions

Run = namedtuple("Run", "ids pixels stages tokens margins")


def stage_kind(name):
    """vision or decoder: which limit of error applies."""
    return "vision" if name.startswith(("model.vision_model", "model.connector")) else "decoder"


class Reference:
    def __init__(self, folder):
        assert transformers.__version__ == VERSION, f"transformers {VERSION} is the reference"
        torch.set_num_threads(1)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.family = json.load(f)["architectures"][0].removesuffix("ForConditionalGeneration")
        self.model = getattr(transformers, self.family + "ForConditionalGeneration").from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.eos_id = self.model.generation_config.eos_token_id
        self.processor = make_processor(folder, self.family)

    def inputs(self, config):
        """The processor's tensors for a configuration of configs.py."""
        images = [Image.fromarray(picture(*size)) for size in config.pictures]
        return self.process(images, config.text, config.system, config.tiling)

    def process(self, images, text, system=None, tiling=True):
        messages = [message("user", text, len(images))]
        if system is not None:
            messages.insert(0, message("system", system))
        return self.process_messages(images, messages, {} if tiling else {"do_image_splitting": False})

    def process_messages(self, images, messages, options):
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return self.processor(text=prompt, images=[images] if images else None, return_tensors="pt", **options)

    @torch.no_grad()
    def run(self, inputs, n_new=N_NEW):
        inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "pixel_values", "pixel_attention_mask")}
        tokens, margins = self.greedy(inputs, n_new)
        ids = inputs["input_ids"][0].tolist()
        stages = self.stages(dict(inputs, input_ids=torch.tensor([ids + tokens[:-1]])))
        pixels = inputs["pixel_values"][0].numpy() if "pixel_values" in inputs else None
        return Run(ids, pixels, stages, tokens, margins)

    def greedy(self, inputs, n_new):
        """The most probable tokens, to the end of the answer and including it, and by how much each leads."""
        past, tokens, margins = transformers.DynamicCache(), [], []
        for _ in range(n_new):
            logits = self.model(**inputs, past_key_values=past, use_cache=True).logits[0, -1]
            best = torch.topk(logits, 2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if tokens[-1] == self.eos_id:
                break
            inputs = {"input_ids": torch.tensor([tokens[-1:]])}
        return tokens, margins

    def stages(self, inputs):
        """Every stage's tensor for prompt and answer in one pass, under the name of its module."""
        stages, hooks = {}, []
        for name, module in self.model.named_modules():
            if is_stage(name):
                hooks.append(module.register_forward_hook(keep(stages, name)))
        hooks.append(self.model.model.text_model.register_forward_pre_hook(
            lambda _, args, kwargs: stages.update(inputs_embeds=kwargs["inputs_embeds"].numpy()[0]), with_kwargs=True))
        # The image token in an answer is a word like any other; in the prompt it stands for a row of features.
        stages["logits"] = self.model(**inputs, use_cache=False).logits[0].numpy()
        for hook in hooks:
            hook.remove()
        return stages


def message(role, text, n_images=0):
    return {"role": role, "content": [{"type": "image"}] * n_images + [{"type": "text", "text": text}]}


def is_stage(name):
    parts = name.split(".")
    return (name in ("model.vision_model.embeddings", "model.vision_model.post_layernorm", "model.connector",
                     "model.text_model.norm") or len(parts) > 1 and parts[-2] == "layers")


def keep(stages, name):
    def hook(_module, _args, output):
        x = (output[0] if isinstance(output, tuple) else output).numpy()
        stages[name] = x[0] if name.startswith("model.text_model") else x
    return hook


def make_processor(folder, family):
    """Tokenizer, image processor and processor as the folder's files say."""
    package = f"transformers.models.{family.lower()}."
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    image_class = getattr(importlib.import_module(package + f"image_processing_pil_{family.lower()}"),
                          family + "ImageProcessorPil")
    with open(os.path.join(folder, "processor_config.json"), encoding="utf-8") as f:
        image_seq_len = json.load(f)["image_seq_len"]
    parts = dict(image_processor=image_class.from_pretrained(folder), tokenizer=tokenizer,
                 image_seq_len=image_seq_len, chat_template=tokenizer.chat_template)
    processor_class = getattr(importlib.import_module(package + f"processing_{family.lower()}"), family + "Processor")
    if family != "SmolVLM":
        return processor_class(**parts)

    class WithoutVideo(processor_class):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name != "video_processor":
                return super().check_argument_for_proper_class(argument_name, argument)

    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    return WithoutVideo(video_processor=SmolVLMVideoProcessor(), **parts)
