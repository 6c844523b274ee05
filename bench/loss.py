"""What 8 and 4 bits cost: files of one model of text in several types against its weights in f32.

    python export/export.py MODEL.gguf -o f32.smol                     the reference; a Hugging Face folder will do as well
    python export/export.py MODEL.gguf -o q4.smol --type q4            and q8
    python bench/loss.py --make-folder f32.smol FOLDER                 what --calibrate wants: a Hugging Face folder
    python export/export.py FOLDER -o q4-calibrated.smol --type q4 --calibrate TEXTS
    python bench/loss.py --make-peers MODEL.gguf PEERS                 llama.cpp's Q8_0, Q4_0, IQ4_NL, Q4_K_M in the folder PEERS
    python bench/loss.py f32.smol TEXT q4.smol ... PEERS/*.gguf

All weights are dequantised and run by transformers in f32, so this is the loss of the weights alone, with neither engine in it.
The text is cut into windows of 512 tokens; columns are the size of the file's matrices in bits a weight, the mean
Kullback-Leibler divergence of the next token's distribution, how often the most probable token is the same, and perplexity.
MODEL.gguf can be that of the package in export/smollm2.txt; llama-cpp-python is one of the peers in requirements.txt.
"""

import argparse
import ctypes
import os
import sys

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", folder) for folder in ("export", "tests")]

from gguf_file import GgufFile  # noqa: E402
from header import read_config, read_sources  # noqa: E402
from smol_file import F32, F32X16, Q4, Q8, SmolFile  # noqa: E402
from smol_to_folder import make_tokenizer  # noqa: E402

WINDOW = 512
BITS = {F32X16: 32, Q8: 8.25, Q4: 4.5}
PEERS = ("Q8_0", "Q4_0", "IQ4_NL", "Q4_K_M")


def make_peers(model, folder):
    """Of a file that is quantised already, too: llama.cpp dequantises it first, as this exporter does."""
    import llama_cpp

    os.makedirs(folder, exist_ok=True)
    for name in PEERS:
        p = llama_cpp.llama_model_quantize_default_params()
        p.ftype, p.allow_requantize = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + name), True
        out = os.path.join(folder, name + ".gguf")
        if llama_cpp.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(p)):
            sys.exit(f"{out}: llama.cpp could not make it")


def make_folder(path, folder):
    """The weights of a .smol file as a checkpoint of transformers. Its chat template is not needed to calibrate."""
    smol = SmolFile(path)
    model = make_model(smol.header)
    load(model, smol.tensors)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(smol.tokenizer)).save_pretrained(folder)


def read_smol(path):
    """Tensors under Hugging Face's names, and bits a weight of the matrices."""
    f = SmolFile(path)
    matrices = [name for name in f.names if f.types[name] != F32]
    bits = sum(BITS[f.types[name]] * f.tensors[name].size for name in matrices)
    return f.tensors, bits / sum(f.tensors[name].size for name in matrices)


def read_gguf(path):
    source = GgufFile(path)
    checkpoint = source.checkpoint(read_config(read_sources(source)))
    tensors = {name: np.concatenate(list(checkpoint.rows(name, entry.shape, 1 << 14)))
               for name, entry in checkpoint.entries.items()}
    matrices = [entry.stored for entry in checkpoint.entries.values() if len(entry.shape) == 2]
    n_bytes = sum(checkpoint.places[name][2] for name in matrices)
    return tensors, 8 * n_bytes / sum(x.size for x in tensors.values() if len(x) > 1)


def make_model(h):
    """The reference implementation with the sizes of a header."""
    config = LlamaConfig(
        vocab_size=h["vocab_size"], hidden_size=h["dim"], intermediate_size=h["hidden_dim"], num_hidden_layers=h["n_layers"],
        num_attention_heads=h["n_heads"], num_key_value_heads=h["n_kv_heads"], head_dim=h["head_dim"],
        max_position_embeddings=h["max_positions"], rms_norm_eps=h["rms_norm_eps"], tie_word_embeddings=bool(h["tied"]),
        rope_parameters={"rope_type": "default", "rope_theta": h["rope_theta"]})
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def load(model, tensors):
    for name, p in model.named_parameters():
        p.copy_(torch.from_numpy(np.array(tensors[name])).reshape(p.shape))


@torch.no_grad()
def predictions(model, window):
    """(511, vocab_size) logarithms of probabilities."""
    return torch.log_softmax(model(window[None], use_cache=False).logits[0, :-1], -1)


def compare(model, windows, reference):
    """Mean divergence, agreement and perplexity."""
    total = torch.zeros(3, dtype=torch.float64)
    for window, p in zip(windows, reference):
        q = predictions(model, window)
        total[0] += (p.exp() * (p - q)).sum()
        total[1] += (p.argmax(-1) == q.argmax(-1)).sum()
        total[2] -= q.gather(1, window[1:, None]).sum()
    kl, same, loss = (total / sum(len(p) for p in reference)).tolist()
    return kl, same, np.exp(loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-peers", action="store_true")
    parser.add_argument("--make-folder", action="store_true")
    parser.add_argument("--windows", type=int, help="only the first so many")
    parser.add_argument("reference")
    parser.add_argument("text")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    if options.make_peers:
        return make_peers(options.reference, options.text)
    if options.make_folder:
        return make_folder(options.reference, options.text)
    smol = SmolFile(options.reference)
    model = make_model(smol.header)
    load(model, smol.tensors)
    with open(options.text, encoding="utf-8") as f:
        ids = torch.tensor(make_tokenizer(smol.tokenizer).encode(f.read(), add_special_tokens=False).ids)
    windows = ids[:len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)[:options.windows]
    reference = [predictions(model, window) for window in windows]
    print("| file | bits | KL | same top token | perplexity |\n| --- | --- | --- | --- | --- |")
    print(f"| f32 | 32 | 0 | 100 % | {compare(model, windows, reference)[2]:.3f} |", flush=True)
    for path in options.files:
        tensors, bits = read_smol(path) if path.endswith(".smol") else read_gguf(path)
        load(model, tensors)
        kl, same, perplexity = compare(model, windows, reference)
        name = os.path.splitext(os.path.basename(path))[0]
        print(f"| {name} | {bits:.2f} | {kl:.5f} | {100 * same:.2f} % | {perplexity:.3f} |", flush=True)


if __name__ == "__main__":
    main()
