"""--dump-tiles and the boxes of --json: the tiles are those of transformers' processor before it rescales and normalises,
the drawing is the original but for lines and labels, and the boxes are where the reference's resizes put the tiles.
"""

import json
import os
import re
import resource

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import ppm

TILE = 36


def random_image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth_image(width, height):
    """Few and unequal values, so that some codes of the PNG become long."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * x // (width + 1), y, (x + y) // 9], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def processor(tiny):
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    return SmolVLMImageProcessorPil.from_pretrained(tiny.parent / "hf", do_rescale=False, do_normalize=False)


def reference_tiles(processor, image, split=True):
    """(n_tiles, 36, 36, 3) before they are normalised, and how many rows and columns."""
    out = processor(images=[[image]], do_image_splitting=split, return_row_col_info=True)
    return np.asarray(out["pixel_values"])[0].transpose(0, 2, 3, 1), out["rows"][0][0], out["cols"][0][0]


def read(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def names(n, rows, cols):
    tiles = [f"picture_{n:02d}_row_{r:02d}_col_{c:02d}.png" for r in range(1, rows + 1) for c in range(1, cols + 1)]
    return [*tiles, f"picture_{n:02d}_tiling.png", f"picture_{n:02d}_whole.png"]


def dump(program, tiny, folder, *args, **how):
    return json.loads(program.good(tiny, "?", *args, "-n", "1", "--json", "--dump-tiles", folder, **how))


# ---- tiles ----

SIZES = [(60, 60), (90, 30), (30, 91), (1, 1), (1, 400), (997, 3), (144, 144), (145, 143), (640, 480)]


@pytest.mark.parametrize("split", [True, False])
def test_tiles_are_those_of_the_reference(plain, tiny, processor, tmp_path, split):
    images = [(random_image if i % 2 else smooth_image)(*size) for i, size in enumerate(SIZES)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        answer = dump(plain, tiny, tmp_path / f"d{i}", "-i", tmp_path / f"{i}.png", *([] if split else ["--no-tiling"]))
        expected, rows, cols = reference_tiles(processor, image, split)
        assert (answer["tiles"][0]["rows"], answer["tiles"][0]["cols"]) == (rows, cols)
        wanted = names(1, rows, cols)
        assert sorted(os.listdir(tmp_path / f"d{i}")) == wanted
        tiles = [read(tmp_path / f"d{i}" / name) for name in wanted if "tiling" not in name]
        assert np.array_equal(tiles, expected), image.size


def test_several_pictures(program, tiny, processor, tmp_path):
    """Each has its number, in the order of the command line; what was there under the same names is replaced."""
    images = [random_image(60, 60, 1), random_image(90, 30, 2), random_image(8, 8, 3)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.bmp")
    out = tmp_path / "out"
    out.mkdir()
    (out / "picture_01_whole.png").write_text("an older one")
    (out / "other").write_text("not ours")
    dump(program, tiny, out, "-i", tmp_path / "0.bmp", "-i", "-", "-i", tmp_path / "2.bmp",
         stdin=(tmp_path / "1.bmp").read_bytes())
    wanted = []
    for n, image in enumerate(images, 1):
        expected, rows, cols = reference_tiles(processor, image)
        wanted += names(n, rows, cols)
        assert np.array_equal([read(out / name) for name in names(n, rows, cols) if "tiling" not in name], expected)
    assert sorted(os.listdir(out)) == sorted([*wanted, "other"])
    assert (out / "other").read_text() == "not ours"


def test_the_answer_stays_the_same(program, tiny, picture, tmp_path):
    args = [tiny, "?", "-i", picture, "-n", "5"]
    assert program.good(*args) == program.good(*args, "--dump-tiles", tmp_path / "d")


def test_video_frames(program, tiny, processor, tmp_path):
    frames = [random_image(40, 30, i) for i in range(5)]
    stream = b"".join(b"P6 40 30 255\n" + frame.tobytes() for frame in frames)
    answer = dump(program, tiny, tmp_path / "d", "-v", "-", "--fps", "1", stdin=stream)
    wanted = [f"video_01_frame_{i:03d}_whole.png" for i in range(1, 6)]
    assert answer["video"]["frames"] == 5 and sorted(os.listdir(tmp_path / "d")) == wanted
    size = {"longest_edge": TILE}  # of the tiny model's videos
    out = processor(images=[frames], do_image_splitting=False, size=size)
    assert np.array_equal([read(tmp_path / "d" / name) for name in wanted],
                          np.asarray(out["pixel_values"])[0].transpose(0, 2, 3, 1))


def test_chat_writes_each_picture_once(program, tiny, picture, tmp_path):
    (tmp_path / "other.ppm").write_bytes(ppm(90, 30, seed=5))
    lines = f"/image {picture}\nWhat?\nAnd?\n/image {tmp_path}/other.ppm\nThis?\n"
    program(tiny, "-n", "2", "--dump-tiles", tmp_path / "d", stdin=lines.encode())
    assert sorted(os.listdir(tmp_path / "d")) == sorted(names(1, 4, 4) + names(2, 2, 4))


# ---- the drawing ----

def lines_and_labels(width, height, rows, cols):
    """Where the drawing may differ: around the borders between tiles, and in the upper left of each tile."""
    line = 1 + max(width, height) // 1000
    mask = np.zeros((height, width), bool)
    for x in (width * i / cols for i in range(1, cols)):
        mask[:, max(0, round(x) - line):round(x) + line + 1] = True
    for y in (height * i / rows for i in range(1, rows)):
        mask[max(0, round(y) - line):round(y) + line + 1] = True
    for r in range(max(rows, 1)):
        for c in range(max(cols, 1)):
            w, h = width / max(cols, 1), height / max(rows, 1)
            scale = max(1, round(min(w, 2 * h) / 128))
            y, x = round(r * h), round(c * w)
            mask[y:y + line + 14 * scale + 1, x:x + line + 40 * scale + 1] = True
    return mask


EXIF = {(60, 90): 6, (200, 100): 3, (333, 77): 5}  # sizes that are saved turned, and how


@pytest.mark.parametrize("width, height", [(60, 60), (640, 480), (3000, 1000), (1, 1), (1, 400), (997, 3), (7, 5), *EXIF])
def test_drawing_is_the_original_but_for_lines_and_labels(plain, tiny, tmp_path, width, height):
    image = random_image(width, height)
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[0x112] = EXIF.get((width, height), 1)
    image.save(path, exif=exif)
    original = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    tiles = dump(plain, tiny, tmp_path / "d", "-i", path)["tiles"][0]
    drawing = read(tmp_path / "d" / "picture_01_tiling.png")
    assert drawing.shape == original.shape == (tiles["height"], tiles["width"], 3)
    different = (drawing != original).any(-1)
    assert not different[~lines_and_labels(tiles["width"], tiles["height"], tiles["rows"], tiles["cols"])].any()
    reds = (drawing == [255, 0, 0]).all(-1)
    for box in tiles["boxes"][:-1]:  # a line, wherever there is room for one
        x, y = int(box["x"] + 0.5), int(box["y"] + 0.5)
        if x and box["width"] >= 16:
            assert reds[y + 1:int(y + box["height"]) - 1, x].all()
        if y and box["height"] >= 16:
            assert reds[y, x + 1:int(x + box["width"]) - 1].all()


GLYPHS = {"0": "### #.# #.# #.# ###", "1": ".#. ##. .#. .#. ###", "2": "### ..# ### #.. ###", "3": "### ..# ### ..# ###",
          "4": "#.# #.# ### ..# ..#", "5": "### #.. ### ..# ###", "6": "### #.. ### #.# ###", "7": "### ..# ..# .#. .#.",
          "8": "### #.# ### #.# ###", "9": "### #.# ### ..# ###", ",": "... ... ... .#. #..", "x": "... #.# .#. #.# ..."}


def written(drawing, x, y, scale, n):
    """Reads n characters of a label whose corner is at x, y: every pixel of it is black or white."""
    text = ""
    for i in range(n):
        left = x + (1 + 4 * i) * scale
        cell = drawing[y + scale:y + 6 * scale, left:left + 3 * scale]
        assert ((cell == 0) | (cell == 255)).all() and (cell.min(-1) == cell.max(-1)).all()
        small = cell[::scale, ::scale, 0] == 255
        assert np.array_equal(small.repeat(scale, 0).repeat(scale, 1) * 255, cell[..., 0])
        shape = " ".join("".join(".#"[int(v)] for v in row) for row in small)
        text += next((c for c, glyph in GLYPHS.items() if glyph == shape), "?")
    return text


@pytest.mark.parametrize("width, height", [(640, 480), (789, 1066), (3000, 3000)])
def test_labels_can_be_read(plain, tiny, tmp_path, width, height):
    random_image(width, height).save(tmp_path / "p.png")
    boxes = dump(plain, tiny, tmp_path / "d", "-i", tmp_path / "p.png")["tiles"][0]["boxes"][:-1]
    drawing = read(tmp_path / "d" / "picture_01_tiling.png")
    line = 1 + max(width, height) // 1000
    for box in boxes:
        scale = max(1, int(min(box["width"], 2 * box["height"]) / 128 + 0.5))
        x, y = (int(box[k] + 0.5) + line for k in "xy")
        place, size = f"{box['row']},{box['col']}", f"{int(box['width'] + 0.5)}x{int(box['height'] + 0.5)}"
        assert written(drawing, x, y, scale, len(place)) == place
        assert written(drawing, x, y + 7 * scale, scale, len(size)) == size


def test_label_of_a_picture_without_tiles(plain, tiny, tmp_path):
    random_image(640, 480).save(tmp_path / "p.png")
    dump(plain, tiny, tmp_path / "d", "-i", tmp_path / "p.png", "--no-tiling")
    assert written(read(tmp_path / "d" / "picture_01_tiling.png"), 1, 1, 5, 7) == "640x480"


# ---- boxes ----

@pytest.mark.parametrize("width, height", [(60, 60), (90, 30), (641, 479), (1000, 37), (333, 1201), (3, 2)])
def test_boxes_are_where_the_resizes_put_the_tiles(plain, tiny, processor, tmp_path, width, height):
    """The reference's two resizes and its cuts, of a float picture whose values are its own coordinates. Away from the
    borders a Lanczos resize keeps a ramp a ramp, so a tile's values say where it came from."""
    from transformers.models.smolvlm import image_processing_pil_smolvlm as reference

    random_image(width, height).save(tmp_path / "p.png")
    tiles = json.loads(plain.good(tiny, "?", "-i", tmp_path / "p.png", "-n", "1", "--json"))["tiles"][0]
    _, rows, cols = reference_tiles(processor, random_image(width, height))
    assert (tiles["rows"], tiles["cols"]) == (rows, cols)
    pixels = np.zeros((3, height, width), np.uint8)
    h1, w1 = reference.get_resize_output_image_size(pixels, processor.size["longest_edge"])
    assert tiles["resized"] == [w1, h1] and tiles["cut"] == [cols * TILE, rows * TILE]
    for axis, n, steps, cut in (("x", width, w1, cols), ("y", height, h1, rows)):
        scale = n / steps * (steps / (cut * TILE))  # pixels of the original in a pixel of the cut picture
        ramp = Image.fromarray((np.arange(n) + 0.5).astype(np.float32)[None]).convert("F")
        twice = np.asarray(ramp.resize((steps, 1), Image.LANCZOS).resize((cut * TILE, 1), Image.LANCZOS))[0]
        for box in tiles["boxes"][:-1]:
            i = (box["row"] if axis == "y" else box["col"]) - 1
            begin, size = box[axis], box["width" if axis == "x" else "height"]
            assert begin == pytest.approx(i * TILE * scale, rel=1e-12, abs=1e-12)
            assert size == pytest.approx(TILE * scale, rel=1e-12)
            if n >= 60:  # centres of the tile's pixels, away from the picture's borders
                centres = begin + (np.arange(TILE) + 0.5) * size / TILE
                inner = (centres > n / 4) & (centres < 3 * n / 4)
                assert np.allclose(twice[i * TILE:(i + 1) * TILE][inner], centres[inner], atol=0.1 * max(1, scale))
    assert [(b["row"], b["col"]) for b in tiles["boxes"]] == [
        *((r, c) for r in range(1, rows + 1) for c in range(1, cols + 1)), (0, 0)]
    assert tiles["boxes"][-1] == {"row": 0, "col": 0, "x": 0, "y": 0, "width": width, "height": height}


def test_box_of_a_picture_without_tiles(program, tiny, picture):
    tiles = json.loads(program.good(tiny, "?", "-i", picture, "-n", "1", "--json", "--no-tiling"))["tiles"][0]
    assert tiles["boxes"] == [{"row": 0, "col": 0, "x": 0, "y": 0, "width": 60, "height": 60}]


# ---- what can go wrong ----

USAGE = [(["M", "hi", "--dump-tiles", "d"], "--dump-tiles goes with --image or --video"),
         (["M", "hi", "-i", "a", "--dump-tiles", "d", "--plan"], "--dump-tiles wants an answer or a chat"),
         (["M", "hi", "-i", "a", "--dump-tiles", "d", "--tokenize"], "--dump-tiles wants an answer or a chat"),
         (["M", "--info", "--dump-tiles", "d"], "--dump-tiles wants an answer or a chat"),
         (["M", "hi", "-i", "a", "--dump-tiles"], "a value is missing after --dump-tiles")]


@pytest.mark.parametrize("args, part", USAGE)
def test_wrong_usage(program, args, part):
    assert part in program.bad(*args, status=2)


def test_no_folder_to_write_to(program, tiny, picture, tmp_path):
    (tmp_path / "file").write_text("no folder")
    args = [tiny, "hi", "-i", picture, "--dump-tiles"]
    assert program.bad(*args, tmp_path / "file") == f"smol: {tmp_path}/file: is a file, and the tiles need a folder\n"
    line = program.bad(*args, tmp_path / "none" / "d")
    assert line == f"smol: {tmp_path}/none/d: the folder cannot be made: No such file or directory\n"
    assert "the folder cannot be made" in program.bad(*args, "")
    (tmp_path / "d" / "picture_01_whole.png").mkdir(parents=True)
    assert "picture_01_whole.png: Is a directory" in program.bad(*args, tmp_path / "d")
    assert not [name for name in os.listdir(tmp_path / "d") if name.endswith(".tmp")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(program, tiny, picture, tmp_path):
    (tmp_path / "d").mkdir(mode=0o500)
    assert "Permission denied" in program.bad(tiny, "hi", "-i", picture, "--dump-tiles", tmp_path / "d")


def test_full_disk(program, tiny, tmp_path):
    """A limit on the size of files stands for it: what is there is whole."""
    image = random_image(300, 300)
    image.save(tmp_path / "p.png")
    for i, n in enumerate((0, 20, 1000, 3000, 100000)):
        out = tmp_path / f"d{i}"
        how = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))}
        result = program(tiny, "hi", "-i", tmp_path / "p.png", "-n", "2", "--dump-tiles", out, **how)
        assert result.returncode == 1 and not result.stdout
        assert re.fullmatch(rb"smol: [^\n]*picture_01_tiling\.png: File too large\n", result.stderr)
        assert os.listdir(out) == []


def test_little_memory(plain, tiny, picture, tmp_path):
    """Down to where the program does not start: an answer or one line, and never a part of a file."""
    n_failed = 0
    for n in range(40 << 20, 2 << 20, -(1 << 20)):
        few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (n, n))}
        if plain("--version", **few).returncode:
            break
        out = tmp_path / str(n)
        result = plain(tiny, "hi", "-i", picture, "-n", "1", "--dump-tiles", out, **few)
        n_failed += result.returncode
        assert result.returncode in (0, 1) and result.stderr.count(b"\n") == result.returncode
        for name in os.listdir(out) if out.exists() else []:
            read(out / name)
    assert n_failed
