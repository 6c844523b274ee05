#!/usr/bin/env python3
"""make_image_golden.py: writes tests/golden/{tiling,tiles,pnm}.tsv, what tests/test_image.c compares image.c with.

Everything comes from Pillow and from transformers' SmolVLMImageProcessorPil, nothing from our own code. Run it again
only to extend the tables; the files say which versions made them.
"""
import hashlib
import io
import pathlib
import random
import warnings

import numpy as np
import PIL
import transformers
from PIL import Image
from transformers.models.smolvlm import image_processing_pil_smolvlm as reference

GOLDEN = pathlib.Path(__file__).parent / "golden"
SETTINGS = ((2048, 512, 64), (1536, 384, 81), (128, 64, 16), (512, 512, 64))  # longest edge, tile, tokens of a tile
VERSIONS = f"# Pillow {PIL.__version__}, transformers {transformers.__version__}; tests/make_image_golden.py\n"


def write(name, columns, rows):
    text = VERSIONS + "# " + "\t".join(columns) + "\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (GOLDEN / name).write_text(text)
    print(f"{name}: {len(rows)} rows, {len(text)} bytes")


# ---- sizes ----


class SizesOnly(reference.SmolVLMImageProcessorPil):
    """The reference, with pictures that have a shape but no memory."""

    def resize(self, image, size, resample=None, **kwargs):
        height, width = size.height, size.width
        if size.longest_edge:
            height, width = reference.get_resize_output_image_size(image, size.longest_edge)
        return np.broadcast_to(np.uint8(0), (3, height, width))


def tiling(longest_edge, tile, width, height):
    p = SizesOnly(size={"longest_edge": longest_edge}, max_image_size={"longest_edge": tile})
    resized = p.resize(np.broadcast_to(np.uint8(0), (3, height, width)), reference.SizeDict(longest_edge=longest_edge))
    cut = p.resize_for_vision_encoder(resized, tile)
    frames, rows, cols = p.split_images(cut, {"longest_edge": tile})
    return (*resized.shape[:0:-1], *cut.shape[:0:-1], rows, cols, len(frames))


def tiling_sizes():
    sizes = [(1, 1), (2, 1), (1, 2), (3, 3), (8000, 10), (10, 8000), (2048, 1), (1, 2048), (1536, 1536), (65535, 1),
             (1, 65535), (268435456, 1), (1, 268435456), (16384, 16384), (640, 480), (480, 640), (1920, 1080),
             (1080, 1920), (2550, 3300), (3840, 2160), (4000, 3000), (500, 2000), (270, 480), (1000, 37), (512, 75)]
    sizes += [s for n in (3, 5, 64, 511, 1000, 2047, 2049, 3000, 4096, 20000) for s in ((n, 1), (1, n))]
    sizes += [(2048, n) for n in (92, 93, 94, 186, 279)]
    for longest_edge, tile, _ in SETTINGS:
        for short in range(tile, longest_edge + 1, tile):
            for n in range(short - 2, short + 3):
                sizes += [(longest_edge, n), (n, longest_edge)]
    primes = (7, 31, 127, 211, 331, 487, 613, 997, 1499, 2999)
    sizes += [(a, b) for a in primes for b in primes]
    draw = random.Random(1)
    sizes += [(draw.randint(1, 5000), draw.randint(1, 5000)) for _ in range(120)]
    return list(dict.fromkeys(sizes))


def make_tiling():
    rows = []
    for longest_edge, tile, tokens in SETTINGS:
        for width, height in tiling_sizes():
            t = tiling(longest_edge, tile, width, height)
            rows.append((longest_edge, tile, tokens, width, height, *t, t[-1] * tokens))
    columns = "longest_edge tile image_seq_len width height resized_w resized_h cut_w cut_h rows cols n_tiles n_tokens"
    write("tiling.tsv", columns.split(), rows)


# ---- pixels ----


def picture(width, height):
    y, x, c = np.ogrid[:height, :width, :3]
    return ((7 * x + 13 * y + 29 * c + 5 * ((x * y) % 17)) & 255).astype(np.uint8)


TILES = {
    (2048, 512): [(640, 480), (270, 480), (1000, 37), (37, 1000), (2048, 512), (1999, 1501), (1, 7)],
    (1536, 384): [(640, 480), (270, 480), (1000, 37), (1536, 768), (1537, 769), (5, 3)],
    (512, 512): [(640, 480), (512, 512), (512, 300), (1, 1), (1023, 700), (300, 511)],
    (128, 64): [(1, 1), (1, 2), (3, 1), (2, 3), (5, 5), (7, 64), (64, 7), (64, 64), (65, 63), (127, 128), (128, 128),
                (128, 64), (129, 128), (128, 127), (200, 100), (100, 200), (331, 211), (211, 331), (1000, 3), (3, 1000),
                (997, 991), (20000, 1), (1, 20000), (8000, 10), (640, 480), (480, 640), (85, 128), (300, 299)],
}


def make_tiles():
    rows = []
    for (longest_edge, tile), sizes in TILES.items():
        size, max_image_size = {"longest_edge": longest_edge}, {"longest_edge": tile}
        p = reference.SmolVLMImageProcessorPil(size=size, max_image_size=max_image_size)
        for width, height in sizes:
            for split in (1, 0):
                out = p(images=[[Image.fromarray(picture(width, height))]], do_image_splitting=bool(split))
                pixels = np.ascontiguousarray(np.asarray(out["pixel_values"])[0], "<f4")
                rows.append((longest_edge, tile, split, width, height, hashlib.sha256(pixels.tobytes()).hexdigest()))
    write("tiles.tsv", "longest_edge tile split width height sha256".split(), rows)


# ---- PNM ----

# The short edges are even, so that a longest edge equal to the picture's leaves the picture as it is. Left out, because
# we differ on purpose: signs and underscores in numbers, and rubbish behind the last sample of a text format (Pillow
# reads that in blocks of a megabyte, and minds it or not by what happens to lie in the block).
PNM = {
    "p1": b"P1\n3 2\n101\n010\n",
    "p1 spaces": b"P1 3 2 1 0\t1 \r\n0 1 0",
    "p1 more": b"P1 3 2 101010 111",
    "p1 comments": b"P1 #a\n3 #b\r2 #c\n1#d\n01 0#e\r1 0#",
    "p1 two": b"P1 3 2 1 0 2 0 1 0",
    "p1 letter": b"P1 3 2 1x01010",
    "p2": b"P2 3 2 255 0 1 2 253 254 255\n",
    "p2 maxval 100": b"P2 3 2 100 0 1 50 51 99 100",
    "p2 above": b"P2 3 2 100 0 1 2 3 4 101",
    "p2 maxval 1000": b"P2 3 2 1000 0 1 2 3 4 1000",
    "p2 maxval 65535": b"P2 3 2 65535 0 1 254 255 256 65535",
    "p2 maxval 256": b"P2 3 2 256 0 1 2 3 128 256",
    "p2 maxval 1": b"P2 3 2 1 0 1 0 1 0 1",
    "p2 joined": b"P2 3 2 100 1#x\n2 3 4 5 6 7",
    "p2 joined short": b"P2 3 2 100 1#x\n2 3 4 5 6",
    "p2 ten": b"P2 3 2 100 0000000001 2 3 4 5 6",
    "p2 eleven": b"P2 3 2 100 00000000001 2 3 4 5 6 ",
    "p2 words": b"P2 3 2 100 1 2 three 4 5 6",
    "p2 negative": b"P2 3 2 100 1 2 -3 4 5 6",
    "p2 comma": b"P2 3 2 100 1,2,3,4,5,6",
    "p2 nul": b"P2 3 2 100 1 2 3\x004 5 6 7",
    "p2 x85": b"P2 3 2 100 1 2 3\x854 5 6 7",
    "p2 x1c": b"P2 3 2 100 1 2 3\x1c4 5 6 7",
    "p2 vt ff": b"P2\x0b3\x0c2\x0b100\x0c1\x0b2\x0c3 4 5 6",
    "p2 comment at end": b"P2 3 2 100 1 2 3 4 5 6#",
    "p2 comment for the last": b"P2 3 2 100 1 2 3 4 5 #6",
    "p3": b"P3\n3 2\n255\n" + b" ".join(str(14 * i).encode() for i in range(18)),
    "p3 maxval 1023": b"P3 3 2 1023 " + b"\n".join(str(60 * i).encode() for i in range(18)),
    "p3 maxval 65535": b"P3 3 2 65535 " + b" ".join(str(3855 * i).encode() for i in range(18)),
    "p4": b"P4 3 2 \xa0\x40",
    "p4 nine": b"P4 9 2\n\xa5\x7f\x5a\x80",
    "p4 eight": b"P4 8 2\n\xa5\x5a",
    "p4 more": b"P4 3 2 \xa0\x40abc",
    "p4 comment": b"P4#\n3 2 \xa0\x40",
    "p4 comment 2": b"P4 #\n3 2 \xa0\x40",
    "p5": b"P5 3 2 255\nabcdef",
    "p5 maxval 100": b"P5 3 2 100 \x00\x01\x32\x63\x64\xff",
    "p5 maxval 1": b"P5 3 2 1 \0\1\0\1\2\3",
    "p5 maxval 256": b"P5 3 2 256 \x00\x00\x00\x01\x00\x02\x00\xff\x01\x00\x02\x00",
    "p5 maxval 65535": b"P5 3 2 65535 \x00\x00\x00\x01\x00\xfe\x00\xff\x01\x00\xff\xff",
    "p5 maxval 40000": b"P5 3 2 40000 \x00\x00\x00\x01\x00\x02\x00\x80\x9c\x40\xff\xff",
    "p5 crlf": b"P5\r\n3 2\r\n255\r\nabcdef",
    "p5 tab": b"P5\t3\t2\t255\tabcdef",
    "p5 more": b"P5 3 2 255 abcdefghi",
    "p6": b"P6 3 2 255 abcdefghijklmnopqr",
    "p6 more": b"P6 3 2 255 abcdefghijklmnopqrst",
    "p6 maxval 100": b"P6 3 2 100 " + bytes(range(0, 108, 6)),
    "p6 maxval 254": b"P6 3 2 254 " + bytes(range(238, 256)),
    "p6 maxval 65535": b"P6 3 2 65535 " + bytes(i * 89 & 255 for i in range(36)),
    "p6 maxval 1023": b"P6 3 2 1023 " + bytes(i * 89 & 255 if i % 2 else i // 2 % 5 for i in range(36)),
    "p6 comment in the magic": b"P6#x\n3 2 255 abcdefghijklmnopqr",
    "p6 comment": b"P6 #x\n3 2 255 abcdefghijklmnopqr",
    "p6 comment in maxval": b"P6 3 2 25#x\n5 abcdefghijklmnopqr",
    "p6 comment behind maxval": b"P6 3 2 255#x\n\nabcdefghijklmnopqr",
    "p6 comment for data": b"P6 3 2 255 #x\nabcdefghijklmno",
    "p6 maxval 0": b"P6 3 2 0 abcdefghijklmnopqr",
    "p6 maxval 65536": b"P6 3 2 65536 " + bytes(36),
    "p6 no width": b"P6 0 2 255 abc",
    "p6 no height": b"P6 3 0 255 abc",
    "p6 negative": b"P6 -3 2 255 abcdefghijklmnopqr",
    "p6 eleven": b"P6 00000000003 2 255 abcdefghijklmnopqr",
    "p6 ten": b"P6 0000000003 2 255 abcdefghijklmnopqr",
    "p6 nul": b"P6 3\x002 255 abcdefghijklmnopqr",
    "p6 huge": b"P6 9999999999 2 255 abc",
    "p6 large": b"P6 100000 100000 255 abc",
    "p6 lies": b"P6 10000 10000 255 abc",
    "p6 no space": b"P63 2 255 abcdefghijklmnopqr",
    "p6 point": b"P6 3.0 2 255 abcdefghijklmnopqr",
    "p7": b"P7 3 2 255 abcdef",
    "p0": b"P0 3 2 255 abcdef",
    "p": b"P",
    "letters": b"hello, world",
    "p8": b"P8 3 2 255 abcdef",
}
CUT = ("p1", "p1 comments", "p2", "p2 maxval 1000", "p2 comment at end", "p3", "p4", "p5", "p5 maxval 65535", "p6",
       "p6 comment", "p6 maxval 1023")  # these are cut at every byte


def make_pnm():
    files = dict(PNM) | {f"{name}, cut at {n}": PNM[name][:n] for name in CUT for n in range(1, len(PNM[name]))}
    rows = []
    for name, data in files.items():
        try:
            rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            result = (rgb.shape[1], rgb.shape[0], hashlib.sha256(rgb.tobytes()).hexdigest())
        except Exception:
            result = (0, 0, "error")
        rows.append((name, data.hex(), *result))
    write("pnm.tsv", "name hex width height sha256".split(), rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    GOLDEN.mkdir(exist_ok=True)
    make_tiling()
    make_pnm()
    make_tiles()
