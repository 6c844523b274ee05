"""Every PNG, JPEG and BMP file of a picture corpus, decoded by us and by Pillow: pixels equal, or both refuse.

The corpus is the folder images/ under $SMOL_ASSETS (default: ../shared/assets beside the repository); it is third-party
data and not part of the repository. Without it the test is skipped. What is known to differ is listed below.
"""

import io
import os
import pathlib
import subprocess
import warnings

import PIL
import pytest
from PIL import Image, ImageOps

REPO = pathlib.Path(__file__).resolve().parent.parent
IMAGES = pathlib.Path(os.environ.get("SMOL_ASSETS", REPO.parent / "shared" / "assets")) / "images"
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")

# By the start of our error line: files that Pillow reads and we do not.
REFUSED = {"JPEG: arithmetic coding": "not supported; about 20 files of the corpus, nearly all of them damage"}

SMOOTHING = "progressive, broken off: libjpeg smooths blocks whose first coefficients have not all come"

# By the start of the file's name: files that come out otherwise than with Pillow. All of them are damaged.
KNOWN = {
    "png_decompression_dos": "Pillow refuses 1 MB of text in a chunk, which we do not read",
    "id_000393_": "no end marker: libjpeg happens to have read all bits before it noticed, we refuse",
    "id_000968_": "a broken-off Huffman table after the pixels: libjpeg refuses it before it is whole, we do not look",
    "id_004174_": SMOOTHING,
    "id_004175_": SMOOTHING,
    "id_004195_": SMOOTHING,
    "id_004213_": SMOOTHING,
    "id_004218_": SMOOTHING,
    "id_004221_": SMOOTHING,
    "id_004237_": SMOOTHING,
    "id_004246_": SMOOTHING,
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    binary = tmp_path_factory.mktemp("corpus") / "decode_picture"
    sources = ["tests/decode_picture.c", "png.c", "jpeg.c", "bmp.c", "exif.c", "support.c"]
    sanitize = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O1", *sanitize, "-o", str(binary), *sources]
    subprocess.run(command, cwd=REPO, check=True)
    return binary


def by_pillow(data):
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP"))
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"
    return (rgb.size, rgb.tobytes()), ""


def by_us(decoder, path):
    run = subprocess.run([str(decoder), str(path)], capture_output=True)
    error = run.stderr.decode(errors="replace").strip()
    if run.returncode == 1 and error.startswith(("PNG: ", "JPEG: ", "BMP: ")) and "\n" not in error:
        return None, error
    assert run.returncode == 0, f"{path}: exit status {run.returncode}: {error[-1000:]}"
    size, _, pixels = run.stdout.partition(b"\n")
    return (tuple(map(int, size.split())), pixels), ""


@pytest.mark.skipif(not IMAGES.is_dir(), reason=f"no picture corpus: {IMAGES} is not there (set SMOL_ASSETS)")
def test_corpus(decoder):
    assert PIL.__version__ == "12.1.1", "pixels are compared with Pillow 12.1.1"
    warnings.simplefilter("ignore")
    equal = both_refuse = 0
    unexpected, seen = [], set()
    for path in sorted(p for p in IMAGES.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if not data.startswith(SIGNATURES):
            continue
        (theirs, their_error), (ours, our_error) = by_pillow(data), by_us(decoder, path)
        if ours is None and theirs is None:
            both_refuse += 1
        elif ours == theirs:
            equal += 1
        else:
            known = [k for k in REFUSED if our_error.startswith(k)] + [k for k in KNOWN if path.name.startswith(k)]
            seen.update(known)
            if not known:
                unexpected.append(f"{path.relative_to(IMAGES)}: {our_error or 'ours is a picture'}; "
                                  f"{their_error or 'theirs is a picture'}")
    print(f"{equal} equal, {both_refuse} refused by both, {len(unexpected)} unexpected differences")
    assert not unexpected, "\n".join(unexpected)
    assert equal > 500 and seen == set(REFUSED) | set(KNOWN), "the lists of differences are out of date"
