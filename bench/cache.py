"""What the KV cache in 8 bits (--kv-int8) costs: this engine's predictions without it and with it, against those in floats.

    python bench/cache.py F32.smol MODEL.smol TEXT [--windows N]

The text is cut into pieces of 2,000 characters. Columns are the mean Kullback-Leibler divergence of the next token's
distribution from that of the first file, how often the most probable token is the same, and perplexity. (Not the one against
the other: any small change makes other roundings of the activations, which differ by as much as both from the floats.)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PIECE = 2000


def predictions(model, text, *options):
    """Log-probabilities of every token after each of the text's, but after the last; and the text's tokens but the first."""
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace")
        command = [os.path.join(ROOT, "run"), model, "--raw", "-n", "1", "--json", "--trace", trace, *options, "--", text]
        ids = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["prompt_tokens"]
        logits = load_file(trace)["logits"][:len(ids) - 1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.array(ids[1:])


def compare(reference, model, pieces, *options):
    """One line of the table."""
    rows = []
    for piece, (p, ids) in zip(pieces, reference):
        q, _ = predictions(model, piece, *options)
        rows.append([(np.exp(p) * (p - q)).sum(axis=1), p.argmax(axis=1) == q.argmax(axis=1), q[np.arange(len(ids)), ids]])
    divergence, same, likely = np.concatenate(rows, axis=1).mean(axis=1)
    print(f"{os.path.basename(model):<24} {' '.join(options):<10} {divergence:.5f}  {100 * same:6.2f} %  {np.exp(-likely):.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("f32")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=8)
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as f:
        text = f.read(PIECE * args.windows)
    pieces = [text[i:i + PIECE] for i in range(0, len(text), PIECE)]
    reference = [predictions(args.f32, piece) for piece in pieces]
    for model, *options in (args.f32, "--kv-int8"), (args.model,), (args.model, "--kv-int8"):
        compare(reference, model, pieces, *options)


if __name__ == "__main__":
    sys.exit(main())
