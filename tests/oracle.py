"""Makes the golden files of the parity tests again and compares them with those that are committed.

    python tests/oracle.py           says what differs and fails if anything does
    python tests/oracle.py --write   writes them

Everything comes from PyTorch and transformers (reference.py); nothing from the engine. For each configuration of
configs.py: tests/golden/parity_NAME.json (parity_golden.py says what is in it). For the C tests, which have no Python:
a model file, a picture, and tiny.tsv with what the reference makes of the two.
"""

import argparse
import json
import os
import sys
import tempfile

import parity_golden as golden
from configs import CONFIGS, TINY, picture
from harness import GOLDEN, make_files
from reference import Reference

TINY_FILES = ("tiny.smol", "tiny.ppm", "tiny.tsv")


def reference_run(config, folder):
    source, model, _ = make_files(config, folder)
    reference = Reference(source)
    run = reference.run(reference.inputs(config))
    special = (reference.eos_id, reference.model.config.image_token_id)
    if set(special) & set(run.tokens):
        sys.exit(f"{config.name}: the answer has an end or a placeholder; choose another seed")
    return run, model


def to_json(value, depth=0):
    """Indented down to the stages; each of them, and every list, on one line."""
    if depth == 2 or not isinstance(value, dict):
        return json.dumps(value)
    lines = [" " * (depth + 1) + json.dumps(key) + ": " + to_json(value[key], depth + 1) for key in sorted(value)]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


def tiny_table(summary):
    """The summary as lines of words for a C program: key, count, values. Stages also have their name and magnitude."""
    lines = [row(key, summary[key]) for key in ("ids", "tokens", "margins", "last_logits")]
    lines.append(row("pixels_sha256", [summary["pixels_sha256"]]))
    for name, stage in summary["stages"].items():
        lines.append(row("stage", [name, stage["max"], *stage["shape"][-2:], *stage["samples"]]))
    return "\n".join(lines) + "\n"


def row(key, values):
    return "\t".join([key, str(len(values)), *map(str, values)])


def tiny_files(summary, model):
    """Name to bytes, for the C tests. The table repeats parity_tiny.json."""
    with open(model, "rb") as f:
        files = {"tiny.smol": f.read()}
    width, height = TINY.pictures[0]
    files["tiny.ppm"] = b"P6\n%d %d\n255\n" % (width, height) + picture(width, height).tobytes()
    files["tiny.tsv"] = tiny_table(summary).encode()
    return files


def compare_json(path, summary, write):
    """Lines that say what differs from the committed file."""
    if write:
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            f.write(to_json(summary) + "\n")
        return []
    try:
        with open(path, encoding="utf-8") as f:
            return golden.differences(json.load(f), summary)
    except (OSError, ValueError, KeyError) as e:
        return [f"{type(e).__name__}: {e}"]


def compare_bytes(path, data, write):
    if write:
        with open(path, "wb") as f:
            f.write(data)
        return []
    try:
        with open(path, "rb") as f:
            return [] if f.read() == data else ["the bytes differ"]
    except OSError as e:
        return [str(e)]


def check(config, folder, write):
    """{file name: lines that say what differs} for one configuration."""
    run, model = reference_run(config, folder)
    path = golden.path_of(config.name)
    found = {os.path.basename(path): compare_json(path, golden.summary(run), write)}
    if config is TINY:
        for name, data in tiny_files(golden.read(TINY.name), model).items():
            found[name] = compare_bytes(os.path.join(GOLDEN, name), data, write)
    return found


def main():
    parser = argparse.ArgumentParser(description="golden files of the parity tests")
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing")
    args = parser.parse_args()
    n_bad = 0
    for config in CONFIGS + [TINY]:
        with tempfile.TemporaryDirectory() as folder:
            for name, lines in check(config, folder, args.write).items():
                print(f"{name}: {'written' if args.write else 'DIFFERS' if lines else 'as committed'}")
                for line in lines:
                    print(f"    {line}")
                n_bad += bool(lines)
    sys.exit(1 if n_bad else 0)


if __name__ == "__main__":
    main()
