"""test_image.py: image.c against transformers' SmolVLMImageProcessorPil, tile by tile, with ==.

Random pictures of random sizes, and the photos of SMOL_ASSETS (../shared/assets if it is not set), if there are any.
All go in as PPM made by Pillow, so that this is about sizes, resizing and cutting; the codecs have tests of their own.
"""
import os
import pathlib
import random
import subprocess

import numpy as np
import pytest
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from make_image_golden import tiling_sizes

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOS = pathlib.Path(os.environ.get("SMOL_ASSETS", ROOT.parent / "shared" / "assets")) / "images" / "photos"
SETTINGS = ((2048, 512), (1536, 384), (512, 512))  # longest edge, tile: 256M and 500M, 2.2B, video frames
N_RANDOM = 40


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    program = tmp_path_factory.mktemp("image") / "preprocess_picture"
    sources = ["tests/preprocess_picture.c", "image.c", "png.c", "jpeg.c", "bmp.c", "exif.c", "support.c", "ops.c"]
    flags = ["-std=c11", "-O2", "-ffp-contract=off"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *sources, "-o", program, "-lm"], cwd=ROOT, check=True)
    return program


def compare(driver, path, image, longest_edge, tile, split):
    image.save(path)
    size, max_image_size = {"longest_edge": longest_edge}, {"longest_edge": tile}
    processor = SmolVLMImageProcessorPil(size=size, max_image_size=max_image_size)
    out = processor(images=[[image]], do_image_splitting=split, return_row_col_info=True)
    expected = np.asarray(out["pixel_values"])[0]
    run = subprocess.run([driver, path, str(longest_edge), str(tile), str(int(split))], capture_output=True, check=True)
    ours = np.frombuffer(run.stdout, "<f4")
    assert ours.size == expected.size
    assert np.array_equal(ours.reshape(expected.shape), expected)
    rows, cols = (int(n) for n in run.stderr.split()[3:5])  # "640 x 480: 3 4 13, ..."
    assert (rows, cols) == (out["rows"][0][0], out["cols"][0][0])


def sizes():
    """Those of the table of tilings (make_image_golden.py) that a machine can hold."""
    return [(w, h) for w, h in tiling_sizes() if w * h < 20_000_000]


@pytest.mark.parametrize("longest_edge, tile", SETTINGS)
def test_sizes(driver, tmp_path, longest_edge, tile):
    """Tiles before rescaling and normalising, as bytes: a fortieth of the sizes, or all, which takes a quarter of an hour, with
    SMOL_ALL_SIZES=1."""
    every = 1 if os.environ.get("SMOL_ALL_SIZES") else 40
    processor = SmolVLMImageProcessorPil(size={"longest_edge": longest_edge}, max_image_size={"longest_edge": tile},
                                         do_rescale=False, do_normalize=False)
    assert len(sizes()) >= 300
    for i, (width, height) in enumerate(sizes()[::every]):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / "picture.ppm")
        expected = np.asarray(processor(images=[[image]])["pixel_values"])[0]
        command = [driver, tmp_path / "picture.ppm", str(longest_edge), str(tile), "1"]
        ours = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
        ours = np.rint((ours.reshape(expected.shape) * 0.5 + 0.5) * 255)
        assert np.array_equal(ours, expected), (width, height)


def random_picture(draw, i):
    """Noise, black and white noise (which makes Lanczos overshoot: the clamping counts), or soft noise; any shape."""
    width, height = (round(2 ** draw.uniform(0, 11.5)) for _ in range(2))
    noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if i % 3 == 1:
        noise = (noise > 127).astype(np.uint8) * np.uint8(255)
    image = Image.fromarray(noise)
    if i % 3 == 2:
        image = image.resize((width, height), Image.BILINEAR, (0, 0, (width + 9) // 10, (height + 9) // 10))
    return image


@pytest.mark.parametrize("longest_edge, tile", SETTINGS)
def test_random_pictures(driver, tmp_path, longest_edge, tile):
    draw = random.Random(longest_edge + tile)
    for i in range(N_RANDOM):
        compare(driver, tmp_path / "picture.ppm", random_picture(draw, i), longest_edge, tile, draw.random() < 0.8)


@pytest.mark.parametrize("longest_edge, tile", SETTINGS)
def test_photos(driver, tmp_path, longest_edge, tile):
    photos = sorted(PHOTOS.glob("*.*")) if PHOTOS.is_dir() else []
    if not photos:
        pytest.skip(f"no photos in {PHOTOS}; set SMOL_ASSETS")
    for path in photos:
        image = Image.open(path).convert("RGB")
        for split in (True, False):
            compare(driver, tmp_path / "photo.ppm", image, longest_edge, tile, split)
