"""Golden files of the parity tests: what the reference said, small enough to keep.

One JSON file for each configuration: prompt ids, the SHA-256 of the pixel values, and for each stage its shape, its
largest magnitude and SAMPLES of its elements, spread evenly over the prompt's part of the tensor; the logits of the
prompt's last position; the greedy tokens and by how much each led.
"""

import hashlib
import json
import os

import numpy as np

from harness import GOLDEN

SAMPLES = 32
# Relative to a tensor's largest magnitude. torch's and MKL's kernels differ between processors: their plainest code
# (ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE) is up to 1.1e-6 away from their AVX-512 code in these files.
TOLERANCE = 4e-6


def path_of(name):
    return os.path.join(GOLDEN, f"parity_{name}.json")


def read(name):
    with open(path_of(name), encoding="utf-8") as f:
        return json.load(f)


def sample_places(n):
    return [i * (n - 1) // (SAMPLES - 1) for i in range(SAMPLES)]


def floats(x):
    """As short as they are exact."""
    return [float(str(np.float32(v))) for v in np.ravel(x)]


def summary(run):
    n = len(run.ids)
    stages = {}
    for name, x in run.stages.items():
        x = x[:n] if x.ndim == 2 else x
        flat = x.ravel()
        stages[name] = {"shape": list(x.shape), "max": floats(np.abs(flat).max())[0],
                        "samples": floats(flat[sample_places(flat.size)])}
    pixels = np.zeros(0) if run.pixels is None else run.pixels
    return {
        "ids": run.ids,
        "pixels_shape": list(pixels.shape),
        "pixels_sha256": hashlib.sha256(np.ascontiguousarray(pixels, "<f4").tobytes()).hexdigest(),
        "stages": stages,
        "last_logits": floats(run.stages["logits"][n - 1]),
        "tokens": run.tokens,
        "margins": floats(run.margins),
    }


def differences(old, new):
    """Lines that say what differs; none when all is as it was."""
    lines = [f"{key} differ" for key in ("ids", "pixels_shape", "pixels_sha256", "tokens") if old[key] != new[key]]
    if set(old["stages"]) != set(new["stages"]):
        return lines + ["other stages"]
    for name, stage in old["stages"].items():
        scale = stage["max"]
        if new["stages"][name]["shape"] != stage["shape"]:
            lines.append(f"{name}: another shape")
            continue
        for part in ("max", "samples"):
            lines += difference(f"{name} {part}", stage[part], new["stages"][name][part], scale)
    scale = old["stages"]["logits"]["max"]
    lines += difference("last_logits", old["last_logits"], new["last_logits"], scale)
    lines += difference("margins", old["margins"], new["margins"], scale)
    return lines


def difference(what, old, new, scale):
    error = float(np.abs(np.subtract(old, new)).max()) / scale
    return [f"{what}: {error:.1e}"] if error > TOLERANCE else []
