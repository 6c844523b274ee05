"""What 8 and 4 bits cost: files of one model of text in several types against its weights in f32.

    make bench-loss TEXT=FILE CALIBRATE=FILE_OR_FOLDER    makes the files from SmolLM2-135M, and ends with
    python bench/loss.py f32.smol TEXT q4.smol q8.smol+kv8 ... Q4_0.gguf ...

    python bench/loss.py --make-folder f32.smol FOLDER    what --calibrate wants: a Hugging Face folder
    python bench/loss.py --make-peers MODEL.gguf PEERS    llama.cpp's Q8_0, Q4_0, IQ4_NL, Q4_K_M in the folder PEERS

The text is cut into pieces of 2,000 characters. Columns are the size of the file's matrices in bits a weight; the mean
Kullback-Leibler divergence of the next token's distribution from that of transformers in f32, how often the most probable
token is the same, and perplexity. Twice: of the weights alone, dequantised and run by transformers in f32; and of the engine
that the file is for, this one or llama.cpp, which rounds activations and the KV cache, too (+kv8: with --kv-int8).
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", folder) for folder in ("export", "tests")]

from gguf_file import GgufFile  # noqa: E402
from header import read_config, read_sources  # noqa: E402
from smol_file import F32, F32X16, Q4, Q8, SmolFile  # noqa: E402
from smol_to_folder import make_tokenizer  # noqa: E402

PIECE = 2000  # characters
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


# ---- who predicts: (n_tok - 1, vocab_size) logarithms of probabilities ----

@torch.no_grad()
def by_transformers(model, ids):
    return torch.log_softmax(model(torch.tensor(ids)[None], use_cache=False).logits[0, :-1].double(), -1)


def by_smol(path, text, ids, *options):
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace")
        command = [os.path.join(HERE, "..", "run"), path, "--raw", "-n", "1", "--json", "--trace", trace, *options, "--", text]
        read = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["prompt_tokens"]
        if read != ids:
            sys.exit(f"{path}: reads other tokens than the reference's tokenizer")
        return torch.log_softmax(load_file(trace)["logits"][:len(ids) - 1].double(), -1)


def by_llama(model, ids):
    import llama_cpp as ll

    params = ll.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = len(ids)
    context, vocab_size = ll.llama_init_from_model(model, params), ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    batch = ll.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if ll.llama_decode(context, batch):
        sys.exit("llama.cpp could not run a piece of the text")
    logits = np.ctypeslib.as_array(ll.llama_get_logits(context), (len(ids), vocab_size))[:-1].astype(np.float64)
    ll.llama_batch_free(batch)
    ll.llama_free(context)
    return torch.log_softmax(torch.from_numpy(logits), -1)


def load_llama(path):
    import llama_cpp as ll

    load_llama.log = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(load_llama.log, ctypes.c_void_p())
    ll.llama_backend_init()
    return ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())


# ---- the table ----

def compare(reference, pieces, predict):
    """Three cells: mean divergence, agreement and perplexity of predict(text, ids)."""
    total = torch.zeros(3, dtype=torch.float64)
    for p, (text, ids) in zip(reference, pieces):
        q = predict(text, ids)
        total[0] += (p.exp() * (p - q)).sum()
        total[1] += (p.argmax(-1) == q.argmax(-1)).sum()
        total[2] -= q.gather(1, torch.tensor(ids)[1:, None]).sum()
    kl, same, loss = (total / sum(len(p) for p in reference)).tolist()
    return f"{kl:.5f} | {100 * same:.2f} % | {np.exp(loss):.3f}"


def line(argument, model, reference, pieces):
    path, _, kv8 = argument.partition("+")
    is_smol = path.endswith(".smol")
    tensors, bits = read_smol(path) if is_smol else read_gguf(path)
    load(model, tensors)
    weights = compare(reference, pieces, lambda _, ids: by_transformers(model, ids))
    if is_smol:
        whole = compare(reference, pieces, lambda text, ids: by_smol(path, text, ids, *["--kv-int8"] * bool(kv8)))
    else:
        llama = load_llama(path)
        whole = compare(reference, pieces, lambda _, ids: by_llama(llama, ids))
    return f"| {os.path.splitext(os.path.basename(path))[0]}{'+' * bool(kv8)}{kv8} | {bits:.2f} | {weights} | {whole} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-peers", action="store_true")
    parser.add_argument("--make-folder", action="store_true")
    parser.add_argument("--pieces", type=int, help="only the first so many")
    parser.add_argument("reference")
    parser.add_argument("text")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    if options.make_peers:
        return make_peers(options.reference, options.text)
    if options.make_folder:
        return make_folder(options.reference, options.text)
    smol = SmolFile(options.reference)
    model, tokenizer = make_model(smol.header), make_tokenizer(smol.tokenizer)
    load(model, smol.tensors)
    with open(options.text, encoding="utf-8") as f:
        text = f.read()
    texts = [text[i:i + PIECE] for i in range(0, len(text), PIECE)][:options.pieces]
    pieces = [(t, tokenizer.encode(t, add_special_tokens=False).ids) for t in texts]
    reference = [by_transformers(model, ids) for _, ids in pieces]
    print("| file | bits | KL, weights | same top token | perplexity | KL, engine | same top token | perplexity |")
    print("| --- " * 8 + "|")
    for argument in [options.reference, *options.files]:
        print(line(argument, model, reference, pieces), flush=True)


if __name__ == "__main__":
    main()
