"""Videos: frames, pixels and prompts are those of transformers; whatever carries the same frames gives the same bits;
memory does not grow with the length; what is broken is one line.

The reference's video processor needs torchvision only to resize; its choice of frames, SmolVLMProcessor's sentences,
the template and the resize of Pillow, which its image processor uses, are called as they are.
"""

import json
import os
import random
import re
import shutil
import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import ROOT, STRICT, make_model, ppm

LENGTHS = [1, 2, 10, 63, 64, 65, 200, 2000]
RATES = [1, 24, 29.97, 30]
SEQ = 4  # image tokens of a frame
VIDEO_SIZE = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Room for 64 frames. A frame's first size, 50, is not the tile's, 36."""
    path = make_model(tmp_path_factory.mktemp("video"), max_positions=8192)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 212, VIDEO_SIZE)
    path.write_bytes(data)
    return path


def ask(program, *args, **how):
    return json.loads(program.good(*args, "--json", **how))


# ---- streams ----

def grays(n, width=40, height=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width), dtype=np.uint8)


def rgb(frames):
    return np.repeat(frames[..., None], 3, -1)


def ppm_stream(frames):
    n, height, width, _ = frames.shape
    return b"".join(b"P6\n%d %d\n255\n" % (width, height) + f.tobytes() for f in frames)


def y4m_stream(frames, rate=b" F24:1", colours=b" C444 XCOLORRANGE=FULL"):
    """Gray frames; as 4:4:4 of full range or mono they are exact."""
    n, height, width = frames.shape
    chroma = b"" if b"mono" in colours else b"\x80" * (2 * width * height)
    head = b"YUV4MPEG2 W%d H%d%s Ip A1:1%s\n" % (width, height, rate, colours)
    return head + b"".join(b"FRAME\n" + f.tobytes() + chroma for f in frames)


def folder_of(path, frames):
    from PIL import Image
    path.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{i:04d}.{['png', 'bmp', 'ppm'][i % 3]}")
    return path


# ---- the reference ----

def reference_frames(n, rate, most=64, fps=1):
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata
    metadata = VideoMetadata(total_num_frames=n, fps=rate, duration=n / rate)
    metadata.frames_indices = SmolVLMVideoProcessor.sample_frames(SimpleNamespace(num_frames=most, fps=fps), metadata)
    return metadata


@pytest.fixture(scope="module")
def prompt_ids(model):
    """The ids of a question about a video: template, sentences and tokenizer of the reference."""
    import num2words
    from reference import make_processor
    from transformers.models.smolvlm import processing_smolvlm
    from unittest import mock

    processor = make_processor(model.parent / "hf", "SmolVLM")
    processor.video_processor = SimpleNamespace(num_frames=64, fps=1)

    def ids(metadata, messages):
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        frames = {"pixel_values": np.zeros((1, len(metadata.frames_indices))), "video_metadata": [metadata]}
        with mock.patch.object(processing_smolvlm, "num2words", num2words.num2words):
            expanded = processor.replace_video_token(frames, 0)
        assert prompt.count("<video>") == 1
        return processor.tokenizer(prompt.replace("<video>", expanded))["input_ids"]
    return ids


def question(text):
    return {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def sample_frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "sample_frames"
    sources = ["tests/sample_frames.c", *"image.c exif.c png.c jpeg.c bmp.c ops.c support.c".split()]
    subprocess.run([os.environ.get("CC", "cc"), *STRICT, *sources, "-o", path, "-lm"], cwd=ROOT, check=True)

    def sample(cases):
        lines = "".join("{} {!r} {} {} {!r}\n".format(*case) for case in cases)
        answers = subprocess.run([path], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
        return [[int(word) for word in answer.split()] for answer in answers]
    return sample


def test_frames_are_those_of_the_reference(sample_frames):
    cases = [(n, float(rate), 0, 64, 1.0) for n in LENGTHS for rate in RATES]
    draw = random.Random(1)
    rates = [1, 5, 12.5, 15, 23.976, 24, 24000 / 1001, 25, 29.97, 30000 / 1001, 30, 50, 60, 0.5, 0.1, 1000]
    for _ in range(4000):
        n = round(2 ** draw.uniform(0, 18))
        most, fps = draw.choice([64, 64, 8, 1, 999]), draw.choice([1.0, 1.0, 2.0, 0.5, 0.3])
        cases.append((n, float(draw.choice(rates)), 0, most, fps))
    for (n, rate, _, most, fps), frames in zip(cases, sample_frames(cases), strict=True):
        assert frames == list(reference_frames(n, rate, most, fps).frames_indices), (n, rate, most, fps)
    fewer = [(2000, 24.0, n, 64, 1.0) for n in range(1, 80)]
    for case, frames in zip(fewer, sample_frames(fewer), strict=True):
        assert frames == list(reference_frames(2000, 24.0, min(case[2], 64)).frames_indices)


@pytest.mark.parametrize("rate", RATES)
def test_prompts_are_those_of_the_reference(plain, model, prompt_ids, rate):
    text = "What happens in it? 1, 2."
    for n in LENGTHS:
        stream = y4m_stream(grays(n, 1, 1), b" F2997:100" if rate == 29.97 else b" F%d:1" % rate, b" Cmono")
        metadata = reference_frames(n, rate)
        ids = json.loads(plain.good(model, text, "-v", "-", "--tokenize", "--json", stdin=stream))
        assert ids == prompt_ids(metadata, [question(text)]), n


def test_what_the_answer_says_of_the_video(program, model, prompt_ids):
    stream = ppm_stream(rgb(grays(200, 1, 1)))
    for extra, rate in ([], 24), (["--fps", "29.97"], 29.97), (["--fps", "1e0"], 1):
        answer = ask(program, model, "?", "-v", "-", "-n", "1", *extra, stdin=stream)
        metadata = reference_frames(200, rate)
        assert answer["prompt_tokens"] == prompt_ids(metadata, [question("?")])
        n = len(metadata.frames_indices)
        assert answer["video"] == {"frames": n, "tokens": n * SEQ, "duration": pytest.approx(200 / rate, abs=1e-3),
                                   "seconds": pytest.approx(metadata.timestamps, abs=1e-3)}
    few = ask(program, model, "?", "-v", "-", "-n", "1", "--max-frames", "5", stdin=stream)
    assert few["video"]["frames"] == 5 and few["tiles"] == []


def test_system_and_raw(plain, model, prompt_ids):
    stream = ppm_stream(rgb(grays(50, 1, 1)))
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    ids = json.loads(plain.good(model, "?", "-s", "Be brief.", "-v", "-", "--tokenize", "--json", stdin=stream))
    metadata = reference_frames(50, 24)
    assert ids == prompt_ids(metadata, [system, question("?")])
    raw = json.loads(plain.good(model, "?", "--raw", "-v", "-", "--tokenize", "--json", stdin=stream))
    text = len(json.loads(plain.good(model, "User: ", "--raw", "--tokenize", "--json")))
    assert raw[:-1] == prompt_ids(metadata, [question("?")])[1 + text:][:len(raw) - 1]


@pytest.mark.parametrize("width, height", [(40, 30), (36, 36), (7, 91), (300, 101), (1, 1)])
def test_pixels_are_those_of_the_reference(plain, model, tmp_path, width, height):
    from PIL import Image
    from safetensors.numpy import load_file
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    frames = np.random.default_rng(width).integers(0, 256, (72, height, width, 3), dtype=np.uint8)
    path = tmp_path / "video.ppm"
    path.write_bytes(ppm_stream(frames))
    plain.good(model, "?", "-v", path, "-n", "1", "--trace", tmp_path / "t")
    processor = SmolVLMImageProcessorPil.from_pretrained(model.parent / "hf", size={"longest_edge": VIDEO_SIZE})
    chosen = [Image.fromarray(frames[i]) for i in reference_frames(72, 24).frames_indices]
    expected = np.asarray(processor(images=[chosen], do_image_splitting=False)["pixel_values"])[0]
    assert np.array_equal(load_file(tmp_path / "t")["pixel_values"], expected)


def test_answers_are_those_of_the_reference(plain, model, prompt_ids, tmp_path):
    """Greedy, frame by frame through the reference's own model, as far as its first token that is nearly a tie."""
    import torch
    from reference import Reference
    from safetensors.numpy import load_file

    stream, rate, text = ppm_stream(rgb(grays(10))), 1, "What happens?"
    args = [model, text, "-v", "-", "--fps", str(rate), "-n", "24"]
    answer = ask(plain, *args, "--trace", tmp_path / "t", stdin=stream)
    pixels = torch.tensor(load_file(tmp_path / "t")["pixel_values"])[None]
    assert pixels.shape[1] == 10
    reference = Reference(model.parent / "hf")
    ids = torch.tensor([prompt_ids(reference_frames(10, rate), [question(text)])])
    with torch.no_grad():
        tokens, margins = reference.greedy({"input_ids": ids, "pixel_values": pixels}, 24)
    sure = next((i for i, margin in enumerate(margins) if margin < 1e-3), len(margins))
    assert sure > 5 and answer["tokens"][:sure] == tokens[:sure]


# ---- the same frames from everywhere ----

def test_the_same_frames_give_the_same_bits(program, model, tmp_path):
    frames = grays(75)
    files = {"ppm": ppm_stream(rgb(frames)), "y4m": y4m_stream(frames),
             "mono": y4m_stream(frames, colours=b" Cmono XCOLORRANGE=FULL"),
             "pgm": b"".join(b"P5 # gray\n40 30 255\n" + f.tobytes() for f in frames),
             "norate": y4m_stream(frames, b" F0:0"),
             "params": y4m_stream(frames).replace(b"FRAME\n", b"FRAME Ip XA=B\n")}
    digests = set()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        for video, stdin in (tmp_path / name, b""), ("-", data):
            answer = ask(program, model, "What?", "-v", video, "-n", "3", stdin=stdin)
            assert answer["video"]["seconds"] == pytest.approx([0, 37 / 24, 74 / 24], abs=1e-3)
            digests.add(answer["logits_sha256"])
    folder = folder_of(tmp_path / "folder", rgb(frames))
    (folder / ".hidden").write_text("no frame")
    digests.add(ask(program, model, "What?", "-v", folder, "-n", "3")["logits_sha256"])
    with subprocess.Popen(["cat", tmp_path / "y4m"], stdout=subprocess.PIPE) as cat:
        pipe = cat.stdout.fileno()
        answer = ask(program, model, "What?", "-v", f"/dev/fd/{pipe}", "-n", "3", pass_fds=[pipe])
        digests.add(answer["logits_sha256"])
    assert len(digests) == 1
    frames[74] ^= 1
    (tmp_path / "ppm").write_bytes(ppm_stream(rgb(frames)))
    assert ask(program, model, "What?", "-v", tmp_path / "ppm", "-n", "3")["logits_sha256"] not in digests


def y4m_pixel(program, model, path, y, cb, cr, colours):
    """What the encoder sees of a video of one colour."""
    from safetensors.numpy import load_file

    width, height = 6, 5
    across, down = {b"420": (2, 2), b"422": (2, 1), b"444": (1, 1)}[colours[2:5]]
    n_chroma = -(-width // across) * -(-height // down)
    frame = bytes([y]) * (width * height) + bytes([cb]) * n_chroma + bytes([cr]) * n_chroma
    path.write_bytes(b"YUV4MPEG2 W6 H5 F1:1%s\nFRAME\n" % colours + frame)
    program.good(model, "?", "-v", path, "-n", "1", "--trace", path.with_suffix(".t"))
    pixels = load_file(path.with_suffix(".t"))["pixel_values"][0]
    assert all(np.ptp(channel) == 0 for channel in pixels)
    return np.round((pixels[:, 0, 0] * 0.5 + 0.5) * 255).astype(int).tolist()


@pytest.mark.parametrize("colours", [b" C420jpeg", b" C420mpeg2", b" C420paldv", b" C420", b" C422", b" C444"])
def test_colours_are_bt601(program, model, tmp_path, colours):
    draw = random.Random(5)
    for full in (False, True):
        more = b" XCOLORRANGE=FULL" if full else b" XCOLORRANGE=LIMITED"
        for y, cb, cr in [(16, 128, 128), (235, 128, 128), (81, 90, 240), (0, 0, 0), (255, 255, 255),
                          *[[draw.randrange(256) for _ in range(3)] for _ in range(3)]]:
            luma, blue, red = y, cb - 128, cr - 128
            if not full:
                luma, blue, red = (y - 16) / 219 * 255, blue / 224 * 255, red / 224 * 255
            exact = np.clip([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], 0, 255)
            assert np.abs(exact - y4m_pixel(program, model, tmp_path / "v", y, cb, cr, colours + more)).max() < 0.51


def test_chroma_goes_to_its_block(program, model, tmp_path):
    """An odd picture in 4:2:0: each sample of chroma colours two by two pixels, the last column and row fewer."""
    random = np.random.default_rng(3)
    luma, cb, cr = (random.integers(60, 180, shape, dtype=np.uint8) for shape in ((5, 7), (3, 4), (3, 4)))
    wide = [np.repeat(np.repeat(c, 2, 0), 2, 1)[:5, :7] for c in (cb, cr)]
    head = b"YUV4MPEG2 W7 H5 F1:1 C%s\nFRAME\n"
    (tmp_path / "a").write_bytes(head % b"420" + b"".join(plane.tobytes() for plane in (luma, cb, cr)))
    (tmp_path / "b").write_bytes(head % b"444" + b"".join(plane.tobytes() for plane in (luma, *wide)))
    a, b = (ask(program, model, "?", "-v", tmp_path / name, "-n", "1")["logits_sha256"] for name in "ab")
    assert a == b


# ---- memory ----

def test_memory_does_not_grow_with_the_length(plain, model, tmp_path):
    """5,000 frames and 70: the same peak, from a file and from standard input, as PPM and as Y4M."""
    for make in (lambda n: ppm_stream(rgb(grays(n, 64, 48))), lambda n: y4m_stream(grays(n, 64, 48))):
        peaks = []
        for n in (70, 5000):
            path = tmp_path / "video"
            path.write_bytes(make(n))
            assert path.stat().st_size > n * 9216
            for name, stdin in (path, None), ("-", open(path, "rb")):
                args = [model, "?", "-v", name, "-n", "1", "--max-frames", "3", "-c", "512", "--json"]
                done = subprocess.run(plain.command(args), env=plain.env, stdin=stdin, capture_output=True, check=True)
                peaks.append(json.loads(done.stdout)["memory"]["peak_bytes"])
        assert max(peaks) - min(peaks) < 512 << 10, peaks


# ---- ffmpeg ----

@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")
def test_what_ffmpeg_writes(plain, model, tmp_path):
    """The README's line on a clip in HD's colours: the frames are those that ffmpeg itself writes as RGB, but for the
    resolution of the colours. Then other kinds of streams."""
    from PIL import Image

    clip = tmp_path / "clip.mp4"  # the name is the README's; inside is what every ffmpeg can write
    ffmpeg = ["ffmpeg", "-v", "error"]
    subprocess.run([*ffmpeg, "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=4", "-vf", "scale=out_color_matrix=bt709",
                    "-pix_fmt", "yuv420p", "-colorspace", "bt709", "-c:v", "ffv1", "-f", "matroska", clip], check=True)

    def frames(words, *extra):
        stream = subprocess.run([*ffmpeg, *words], cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
        folder = tmp_path / "-".join(words).replace("/", "")
        answer = ask(plain, model, "?", "-v", "-", "-n", "1", "--dump-tiles", folder, *extra, stdin=stream)
        assert answer["video"]["duration"] == 4 and answer["video"]["frames"] == 4
        return np.array([np.asarray(Image.open(folder / name)) for name in sorted(os.listdir(folder))], int)
    line = re.search(r"^    ffmpeg (-i clip.mp4 .* -) \| ./run ", open(os.path.join(ROOT, "README.md")).read(), re.M)[1]
    as_rgb = frames(["-i", "clip.mp4", "-f", "image2pipe", "-c:v", "ppm", "-"], "--fps", "25")
    assert np.abs(frames(line.split()) - as_rgb).mean() < 1
    for pixels in ("yuv422p", "yuv444p", "yuvj420p"):
        words = line.replace("yuv420p", pixels).split()
        assert np.abs(frames(words) - as_rgb).mean() < 1, pixels
    gray = frames(line.replace("yuv420p", "gray").split())
    assert (np.ptp(gray, -1) == 0).all() and gray.std() > 20


# ---- what does not fit ----

def test_too_many_frames_for_the_context(program, model, tmp_path):
    path = tmp_path / "v.ppm"
    path.write_bytes(ppm_stream(rgb(grays(2000, 1, 1))))
    line = program.bad(model, "What?", "-v", path, "-c", "400", "-n", "5")
    said = re.search(r"256 of them from 64 frames, and the context holds 400 "
                     r".*; -c (\d+) would fit; --max-frames (\d+) would fit", line)
    longer, fewer = (int(n) for n in said.groups())
    ask(program, model, "What?", "-v", path, "-c", str(longer), "-n", "5")
    ask(program, model, "What?", "-v", path, "-c", "400", "-n", "1", "--max-frames", str(fewer))
    assert f"{fewer + 1} frames" in program.bad(model, "What?", "-v", path, "-c", "400", "--max-frames", str(fewer + 1))
    assert "max-frames" not in program.bad(model, "What?", "-v", path, "-c", "30")


# ---- chat ----

def test_chat(program, model, picture, tmp_path):
    path, other, bad = tmp_path / "v.y4m", tmp_path / "w.ppm", tmp_path / "bad.ppm"
    path.write_bytes(y4m_stream(grays(100)))
    other.write_bytes(ppm_stream(rgb(grays(30, seed=5))))
    bad.write_bytes(ppm_stream(rgb(grays(30)))[:-1])
    lines = [f"/video {path}", f"/video {other}", f"/image {picture}", "What?", f"/video {bad}", "/video -",
             f"/video {other}", "And?", f"/image {picture}", f"/video {other}", "Which?", "Why?"]
    result = program(model, "--json", "-n", "4", stdin="\n".join(lines).encode())
    answers, said = [json.loads(line) for line in result.stdout.splitlines()], result.stderr.decode().splitlines()
    assert result.returncode == 1 and said == [
        f"{path}: 4 of 100 frames, 16 tokens", f"smol: {other}: a question has one video, and there is one already",
        f"smol: {picture}: a question has pictures or a video, not both",
        f"smol: {bad}: frame 30: cut off: 40 x 30 pixels need 3600 bytes, and 3599 are left",
        "smol: -: a chat reads questions from standard input", f"{other}: 1 of 30 frames, 4 tokens",
        f"{picture}: 17 tiles, 68 image tokens", f"smol: {other}: a question has pictures or a video, not both"]
    once = ask(program, model, "What?", "-v", path, "-n", "4")
    assert answers[0]["logits_sha256"] == once["logits_sha256"]
    assert [a["video"]["frames"] for a in answers] == [4, 1, 1, 1]
    assert [len(a["tiles"]) for a in answers] == [0, 0, 1, 1]
    image = struct.unpack_from("<I", model.read_bytes(), 232)[0]
    assert [a["prompt_tokens"].count(image) for a in answers] == [16, 20, 88, 88]
    assert answers[3]["timings"]["encode_ms"] < 1


def test_chat_with_a_video_that_does_not_fit(program, model, tmp_path):
    path = tmp_path / "v.ppm"
    path.write_bytes(ppm_stream(rgb(grays(2000, 1, 1))))
    result = program(model, "--json", "-n", "4", "-c", "200", stdin=f"Who?\n/video {path}\nWhat?\nWhy?\n".encode())
    answers, said = [json.loads(line) for line in result.stdout.splitlines()], result.stderr.decode().splitlines()
    assert len(answers) == 2 and answers[1]["video"] is None and len(said) == 3
    assert "the context holds 200" in said[1] and "--max-frames" in said[1] and "/drop" in said[2]
    other = program(model, "--json", "-n", "4", "-c", "200", stdin=b"Who?\nWhy?\n").stdout.splitlines()
    assert answers[1]["logits_sha256"] == json.loads(other[1])["logits_sha256"]


# ---- bad input ----

HEAD = b"YUV4MPEG2 W4 H2 F25:1"
BROKEN = {
    "empty": (b"", "the stream is empty"),
    "an mp4": (b"\0\0\0\x18ftypmp42" + bytes(99), "not a folder, a Y4M or a PPM stream; this makes one: ffmpeg"),
    "an ascii ppm": (b"P3 1 1 255 0 0 0\n", "not a folder"),
    "ppm cut in the header": (ppm(3, 2) + b"P6 3 ", "frame 2: PPM: the header is broken or cut off"),
    "ppm cut in a comment": (ppm(3, 2) + b"P6 # 3 2 255", "frame 2: PPM: the header"),
    "ppm cut in the pixels": (ppm(3, 2) * 4 + ppm(3, 2)[:-1],
                              "frame 5: cut off: 3 x 2 pixels need 18 bytes, and 17 are left"),
    "ppm with garbage between": (ppm(3, 2) + b"x" + ppm(3, 2), "frame 2: PPM: no P6 or P5 picture begins here"),
    "ppm without a space": (b"P65 5 255\n" + bytes(99), "frame 1: PPM: no P6"),
    "ppm of another size": (ppm(3, 2) * 2 + ppm(2, 3), "frame 3: 2 x 3 pixels, but the frames before have 3 x 2"),
    "ppm of 0 x 0": (b"P6 0 0 255\n", "frame 1: a frame of 0 x 0 pixels"),
    "ppm of gigantic size": (b"P6 999999999 999999999 255\n",
                             "frame 1: a frame of 999999999 x 999999999 pixels, more than 2^28"),
    "ppm of an endless number": (b"P6 " + b"9" * 999 + b" 2 255\n", "frame 1: PPM: the header"),
    "ppm with maxval 0": (b"P6 1 1 0\n" + bytes(3), "frame 1: PPM: the header"),
    "ppm with maxval 65536": (b"P6 1 1 65536\n" + bytes(6), "frame 1: PPM: the header"),
    "large ppm that is not there": (b"P6 16000 16000 255\n" + bytes(99), "frame 1: cut off"),
    "y4m without a newline": (HEAD, "Y4M: the header is broken or cut off"),
    "y4m with a long header": (HEAD + b" X" + b"y" * 3000 + b"\n", "Y4M: the header is broken"),
    "y4m with a zero in the header": (b"YUV4MPEG2 W4\0 H2\n" + bytes(99), "Y4M: the header is broken"),
    "y4m without a size": (b"YUV4MPEG2 F25:1\n", "a frame of 0 x 0 pixels"),
    "y4m of a broken size": (b"YUV4MPEG2 W4x H2\n", "Y4M: the header is broken: W4x"),
    "y4m of a negative size": (b"YUV4MPEG2 W-4 H2\n", "Y4M: the header is broken: W-4"),
    "y4m of gigantic size": (b"YUV4MPEG2 W999999999 H999999999\nFRAME\n", "more than 2^28"),
    "y4m of a broken rate": (b"YUV4MPEG2 W4 H2 F25\n", "Y4M: the header is broken: F25"),
    "y4m of an odd rate": (b"YUV4MPEG2 W4 H2 F999999999:1\nFRAME\n" + bytes(12), "frames a second is not within"),
    "y4m of 10 bits": (HEAD + b" C420p10\nFRAME\n",
                       "colours of the kind 420p10 are not read; ffmpeg makes others with -pix_fmt"),
    "y4m with alpha": (HEAD + b" C444alpha\nFRAME\n", "444alpha"),
    "y4m without frames": (HEAD + b"\n", "a video without frames"),
    "y4m with garbage": (HEAD + b"\nFRAME\n" + bytes(12) + b"FRAMED\n", "frame 2: Y4M: no FRAME line begins here"),
    "y4m with half a word": (HEAD + b"\nFRAME\n" + bytes(12) + b"FRA", "frame 2: Y4M: no FRAME line"),
    "y4m cut in the pixels": (HEAD + b"\nFRAME\n" + bytes(11),
                              "frame 1: cut off: 4 x 2 pixels need 12 bytes, and 11 are left"),
}


@pytest.mark.parametrize("data, part", BROKEN.values(), ids=BROKEN)
def test_broken_streams(program, model, tmp_path, data, part):
    path = tmp_path / "video"
    path.write_bytes(data)
    assert program.bad(model, "?", "-v", path).startswith(f"smol: {path}: ")
    assert part in program.bad(model, "?", "-v", path)
    assert part in program.bad(model, "?", "-v", "-", stdin=data)


@pytest.mark.parametrize("make", [lambda f: ppm_stream(rgb(f)), y4m_stream])
def test_streams_cut_at_every_byte(plain, model, tmp_path, make):
    """One whole frame and a part of the next: only a cut between frames goes unnoticed."""
    path, one, two = tmp_path / "v", make(grays(1, 3, 2)), make(grays(2, 3, 2))
    for n in range(0, len(two), 3 if len(two) > 99 else 1):
        path.write_bytes(two[:n])
        if n != len(one):
            plain.bad(model, "?", "-v", path)


def test_broken_folders(program, model, tmp_path):
    folder = tmp_path / "folder"
    assert "No such file" in program.bad(model, "?", "-v", folder)
    folder.mkdir()
    assert "a folder without pictures" in program.bad(model, "?", "-v", folder)
    (folder / "a.ppm").write_bytes(ppm(4, 3))
    (folder / "c.ppm").write_bytes(ppm(4, 3, seed=2))
    assert ask(program, model, "?", "-v", folder, "-n", "1")["video"]["frames"] == 1  # of a twelfth of a second
    cases = [(b"", "the file is empty"), (b"no picture", "not a picture this program reads"),
             (ppm(3, 4), "3 x 4 pixels, but the frames before have 4 x 3"), (ppm(4, 3)[:-1], "PNM: cut off")]
    for data, part in cases:
        (folder / "b.ppm").write_bytes(data)
        line = program.bad(model, "?", "-v", folder)
        assert line.startswith(f"smol: {folder}: frame 2 (b.ppm): ") and part in line
    (folder / "b.ppm").unlink()
    (folder / "b.ppm").mkdir()
    assert "frame 2 (b.ppm): not a file" in program.bad(model, "?", "-v", folder)
    (folder / "b.ppm").rmdir()
    os.mkfifo(folder / "b.ppm")
    assert "frame 2 (b.ppm): not a file" in program.bad(model, "?", "-v", folder)
    (folder / "b.ppm").unlink()
    from PIL import Image
    for name in "ac":
        Image.effect_noise((60, 60), 50).save(folder / f"{name}.png")
        (folder / f"{name}.ppm").unlink()
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:1500])
    assert "frame 2 (c.png): PNG: " in program.bad(model, "?", "-v", folder, "--fps", "1")


def test_a_model_without_videos(program, tmp_path_factory, tmp_path):
    path = make_model(tmp_path_factory.mktemp("no_video"), video=False)
    (tmp_path / "v").write_bytes(ppm(4, 3))
    assert "this model was not made for videos" in program.bad(path, "?", "-v", tmp_path / "v")


USAGE = [
    (["M", "hi", "-v", "a", "-v", "b"], "a question has one video, not also b"),
    (["M", "hi", "-v", "a", "-i", "b"], "a question has pictures or a video, not both"),
    (["M", "-v", "-"], "a chat reads questions from standard input"),
    (["M", "hi", "--fps", "5"], "--fps and --max-frames go with --video"),
    (["M", "hi", "--max-frames", "5"], "--fps and --max-frames go with --video"),
    (["M", "--info", "-v", "a"], "take no prompt and no picture or video"),
    (["M", "hi", "-v", "a", "--max-frames", "0"], "--max-frames wants a whole number of at least 1"),
    *[(["M", "hi", "-v", "a", "--fps", text], f"--fps wants a number from 0.001 to 1000000, not \"{text}\"")
      for text in ("0", "1e7", "x", "nan", "inf", "-1", "24 ", "0x10", "30/1")],
]


@pytest.mark.parametrize("args, part", USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_wrong_usage(program, args, part):
    assert part in program.bad(*args, status=2)


def test_help_names_the_options(plain):
    text = plain.good("--help").decode()
    assert all(option in text for option in ("--video", "--fps", "--max-frames", "ffmpeg"))
