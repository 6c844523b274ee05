"""What a picture of 12 megapixels costs: its JPEG decoded, beside libjpeg-turbo's djpeg; resized and cut into tiles.

    make bench-pictures

The photo is made here: 4000 x 3000 smooth colours and edges under noise, quality 90, once with the chroma of 2 x 2 pixels
together (4:2:0, as cameras and phones write it) and once without (4:4:4), baseline and progressive. Every decoder is a
process of its own that reads the file and writes RGB to /dev/null. They take turns; processor time counts, as the
kernel accounts it for the process, so that a busy machine disturbs little. djpeg is Debian's package
libjpeg-turbo-progs; JSIMD_FORCENONE=1 turns its vector code off.
"""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
WIDTH, HEIGHT, QUALITY = 4000, 3000, 90
N_ROUNDS = int(os.environ.get("ROUNDS", 15))
KINDS = {"4:2:0": {"subsampling": 2}, "4:4:4": {"subsampling": 0}, "4:2:0 progressive": {"subsampling": 2, "progressive": True}}
MODELS = {"256M, 500M": (2048, 512), "2.2B": (1536, 384)}  # longest edge, tile
CODECS = ["png.c", "jpeg.c", "bmp.c", "exif.c", "support.c"]
SETTINGS = {**os.environ, "OMP_NUM_THREADS": "1"}


def make_photo():
    """Large soft shapes, hard edges, fine grain: about 3 bits a pixel as JPEG, as a photo of that quality has."""
    draw = np.random.default_rng(1)
    coarse = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    edges = (((x // 90 + y // 70) % 5 == 0) * 60).astype(np.int16)[..., None]
    grain = draw.normal(0, 22, (HEIGHT, WIDTH, 3)).astype(np.int16)
    photo = Image.fromarray((np.asarray(coarse).astype(np.int16) + edges + grain).clip(0, 255).astype(np.uint8))
    return photo.filter(ImageFilter.GaussianBlur(0.8))


def build(name, sources):
    program = BUILD / name
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O3", "-ffp-contract=off", f"tests/{name}.c", *sources]
    subprocess.run([*command, "-o", program, "-lm"], cwd=ROOT, check=True)
    return program


def processor_ms(command, **settings):
    """User and system time of one process."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**SETTINGS, **settings}) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return (usage.ru_utime + usage.ru_stime) * 1e3


def decoding(photo):
    """A line for each kind of JPEG: medians, and ours over djpeg's."""
    decode = build("decode_picture", CODECS)
    for kind, how in KINDS.items():
        path = BUILD / "photo.jpg"
        photo.save(path, quality=QUALITY, **how)
        contestants = {"ours": ([decode, path], {}), "djpeg, no SIMD": (["djpeg", path], {"JSIMD_FORCENONE": "1"}),
                       "djpeg": (["djpeg", path], {})}
        times = {name: [] for name in contestants}
        for _ in range(N_ROUNDS):
            for name, (command, settings) in contestants.items():
                times[name].append(processor_ms(command, **settings))
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"{kind:18} {path.stat().st_size / 1e6:4.1f} MB  " +
              "  ".join(f"{name} {ms:.0f} ms" for name, ms in medians.items()) +
              f"  ratio {medians['ours'] / medians['djpeg, no SIMD']:.2f} without SIMD, "
              f"{medians['ours'] / medians['djpeg']:.2f} with", flush=True)


def tiling(photo):
    """Resizes, the cut and the view of the whole, on one core. The picture comes as PPM: copied, not decoded."""
    preprocess = build("preprocess_picture", ["image.c", "ops.c", *CODECS])
    path = BUILD / "photo.ppm"
    photo.save(path)
    for name, (longest_edge, tile) in MODELS.items():
        seconds = []
        for _ in range(N_ROUNDS):
            run = subprocess.run([preprocess, path, str(longest_edge), str(tile), "1"], env=SETTINGS, check=True,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            tiles, loading = re.fullmatch(r".*: \d+ \d+ (\d+), .* bytes, ([0-9.]+) s\n", run.stderr).groups()
            seconds.append(float(loading))
        print(f"{name:18} resized and cut into {tiles} tiles of {tile}: {statistics.median(seconds) * 1e3:.0f} ms", flush=True)


def main():
    BUILD.mkdir(parents=True, exist_ok=True)
    photo = make_photo()
    print(f"{WIDTH} x {HEIGHT}, JPEG quality {QUALITY}; medians of {N_ROUNDS}, one thread, processor time")
    try:
        subprocess.run(["djpeg", "-version"], check=True, capture_output=True)
    except FileNotFoundError:
        print("no djpeg (apt-get install libjpeg-turbo-progs): JPEG is left out", file=sys.stderr)
    else:
        decoding(photo)
    tiling(photo)


if __name__ == "__main__":
    main()
