"""torch: transformers' own vision encoder and connector with random weights, and its dynamic quantisation to int8."""

import time

import torch
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector, SmolVLMVisionTransformer

from shapes import SHAPES, config


class Encoder(torch.nn.Module):
    """From a tile's pixels to the connector's output."""

    def __init__(self, name):
        super().__init__()
        c = SmolVLMConfig(**config(name))
        c.vision_config._attn_implementation = "sdpa"
        self.vision, self.connector = SmolVLMVisionTransformer(c.vision_config), SmolVLMConnector(c)

    def forward(self, pixels):  # (1, 3, image_size, image_size)
        return self.connector(self.vision(pixels).last_hidden_state)


def pixels(name, seed=0):
    side = SHAPES[name]["vision"]["image_size"]
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encoder(name):
    torch.manual_seed(0)
    return Encoder(name).eval()


def vision(name, kind, threads, folder):
    torch.set_num_threads(threads)
    model = encoder(name)
    if kind == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    x = pixels(name)

    def run():
        begin = time.perf_counter()
        with torch.inference_mode():
            model(x)
        return (time.perf_counter() - begin) * 1e3
    return run
