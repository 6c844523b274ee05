"""--record and --replay: an answer with all that it depends on, made again on other kernels and threads, and what differs is found."""

import copy
import hashlib
import json
import os
import random
import re
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import ROOT

DEMO = os.path.join(ROOT, "models", "demo", "demo.smol")
METER = os.path.join(ROOT, "models", "demo", "pictures", "06_display.png")
CIRCLES = os.path.join(ROOT, "models", "demo", "pictures", "10_how_many.png")
WORD = os.path.join(ROOT, "models", "demo", "pictures", "03_word.png")

QUESTIONS = {
    "greedy": ["-i", METER, "Read the meter."],
    "sampled": ["-i", CIRCLES, "How many?", "-n", 30, "-t", "1.7", "--top-p", "0.9", "--top-k", "40", "--min-p", "0.001",
                "--seed", str(2 ** 64 - 1), "--repeat-penalty", "1.3", "--stop", "zz", "--stop", "\u00e9\"\\\n"],
    "pictures": ["-i", METER, "-i", CIRCLES, "-s", "Be brief.\n\t\"\u20ac\"", "What?", "--no-tiling", "-c", 400],
    "tiles": ["-i", WORD, "Read <image> the word.", "--max-tiles", "1", "-n", "3"],
    "text": ["hi \x01\x7f \U0001f600", "-n", "9"],
    "raw": ["--raw", "--special", "<|im_start|>User:", "-n", "5"],
    "no UTF-8": [b"caf\xe9 \xf0\x9f\x98", "-n", "4"],
    "empty": ["", "-n", "2"],
    "choices": ["-i", METER, "Read the meter.", "--choices", "7.5, 1.5 ,\u00e9\"\\"],
}


@pytest.fixture(scope="module")
def here(plain):
    return plain


@pytest.fixture(scope="module")
def records(here, tmp_path_factory):
    """Made with the best kernel and one thread."""
    folder, made = tmp_path_factory.mktemp("records"), {}
    for name, args in QUESTIONS.items():
        made[name] = folder / f"{name}.json"
        assert here(DEMO, *args, "--record", made[name]).returncode == 0
    return made


@pytest.fixture
def changed(records, tmp_path):
    """Writes a record with one change and returns its path."""
    def change(function, name="greedy"):
        record = json.loads(records[name].read_bytes())
        function(record)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(record))
        return path
    return change


def replay(program, record, *args, model=DEMO, **how):
    """What is printed where the answer is equal; --max-tiles says more on standard error."""
    done = program(model, "--replay", record, *args, **how)
    assert done.returncode == 0 and done.stdout.startswith(b"equal: "), done
    return done.stdout.decode().splitlines()


# ---- the record ----

def test_it_says_what_is_so(here, records, tmp_path):
    """Against --json, hashlib, and log-probabilities that numpy makes of the traced logits."""
    args, trace = [DEMO, *QUESTIONS["greedy"]], tmp_path / "trace.safetensors"
    record, answer = json.loads(records["greedy"].read_bytes()), json.loads(here.good(*args, "--json", "--trace", trace))
    same = ("prompt_tokens", "text", "finish", "logits_sha256", "model_sha256", "kernel", "threads", "version")
    assert {k: record[k] for k in same} == {k: answer[k] for k in same}
    assert [a["token"] for a in record["answer"]] == answer["tokens"]
    picture, tiling = record["pictures"][0], answer["tiles"][0]
    with open(METER, "rb") as f:
        assert picture.pop("sha256") == hashlib.sha256(f.read()).hexdigest()
    assert picture.pop("file") == METER and picture == {k: v for k, v in tiling.items() if k != "boxes"}
    logits = load_file(trace)["logits"][len(answer["prompt_tokens"]) - 1:].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for i, entry in enumerate(record["answer"]):
        assert abs(entry["logprob"] - expected[i, entry["token"]]) < 1e-6
    assert record["source_sha256"] in here.good("--version").decode()


def test_options_are_all_there(records):
    record = json.loads(records["sampled"].read_bytes())
    assert record["options"] == {
        "fps": None, "max-frames": None, "system": None, "choices": None, "no-tiling": False, "max-tiles": None, "raw": False, "special": False, "tokens": 30, "temperature": 1.70000005,
        "top-p": 0.899999976, "top-k": 40, "min-p": 0.00100000005, "repeat-penalty": 1.29999995, "seed": 2 ** 64 - 1,
        "context": None, "kv-int8": False, "no-loop-check": False, "stop": ["zz", "\u00e9\"\\\n"]}
    assert json.loads(records["pictures"].read_bytes())["options"]["system"] == "Be brief.\n\t\"\u20ac\""


def test_every_option_is_recorded_or_known_not_to_matter(here, records):
    """Whoever adds an option says here what it is."""
    elsewhere = """in-memory logprobs image video threads kernel kernels timings json tokenize score trace dump-tiles record replay plan
                   info verify help version""".split()
    options = set(re.findall(r"--([a-z0-9-]+)", here.good("--help").decode()))
    assert options == set(json.loads(records["greedy"].read_bytes())["options"]) | set(elsewhere)


def test_the_answer_itself_is_shown_as_ever(here, tmp_path):
    args = [DEMO, *QUESTIONS["greedy"]]
    assert here.good(*args, "--record", tmp_path / "r.json") == here.good(*args) == b"7.5\n"


def test_alternatives_are_not_part_of_it(here, records, tmp_path):
    here.good(DEMO, *QUESTIONS["sampled"], "--logprobs", 3, "--json", "--record", tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == records["sampled"].read_bytes()


def test_no_record_of_half_an_answer(here, records, tmp_path):
    line = here.bad(DEMO, "hi", "--record", tmp_path / "none" / "r.json")
    assert str(tmp_path / "none" / "r.json") in line and "No such file" in line
    assert "would be replaced" in here.bad(DEMO, "hi", "--record", "/dev/null")
    full = tmp_path / "r.json"
    full.write_text("before")
    done = subprocess.run(["sh", "-c", f'ulimit -f 1; exec "$@"', "sh", *here.command([DEMO, *QUESTIONS["sampled"], "--record", full])],
                          capture_output=True)
    assert done.returncode == 1 and b"r.json: File too large" in done.stderr, done
    assert full.read_text() == "before" and os.listdir(tmp_path) == ["r.json"]


# ---- replay ----

@pytest.mark.parametrize("name", QUESTIONS)
def test_equal_on_every_kernel(here, records, name):
    for kernel in here.good("--kernels").decode().split():
        for threads in (1, 3):
            out = replay(here, records[name], "--kernel", kernel, "-j", threads)
            assert f"kernel {kernel}, threads {threads}" in out[2]


def test_equal_from_every_kernel(here, records, tmp_path):
    """And but for the first lines the records are the same text."""
    whole = records["sampled"].read_text()
    for kernel in here.good("--kernels").decode().split():
        path = tmp_path / kernel
        here.good(DEMO, *QUESTIONS["sampled"], "--kernel", kernel, "-j", 2, "--record", path)
        replay(here, path, "--kernel", "c")
        assert path.read_text().split('"model_sha256"')[1] == whole.split('"model_sha256"')[1]


def test_sanitized_replays(sanitized, records):
    for path in records.values():
        assert replay(sanitized, path)[2].startswith("replay: version 0.1, source_sha256 unknown")


def test_quantised_models(here, tmp_path):
    for kind in ("q8", "q4"):
        model, record = tmp_path / f"{kind}.smol", tmp_path / f"{kind}.json"
        subprocess.run([os.sys.executable, "export/export.py", "models/demo", "--type", kind, "-o", model, "--quiet"], cwd=ROOT, check=True)
        here.good(model, *QUESTIONS["pictures"], "--record", record)
        for kernel in here.good("--kernels").decode().split():
            replay(here, record, "--kernel", kernel, "-j", 3, model=model)


def test_an_answer_with_a_zero(sanitized, tiny, tmp_path):
    """A token of the vocabulary is the byte 0, which JSON can say and C's texts cannot."""
    sanitized.good(tiny, "?", "-n", 900, "-t", 9, "--seed", 1, "--record", tmp_path / "zero.json")
    assert "\0" in json.loads((tmp_path / "zero.json").read_bytes())["text"]
    replay(sanitized, tmp_path / "zero.json", model=tiny)


def test_order_and_spelling_do_not_matter(here, records, changed):
    """What a tool that knows JSON makes of a record is the same record."""
    for name, path in records.items():
        record = json.loads(path.read_bytes())
        path = changed(lambda r: None, name)
        path.write_text(json.dumps(record, sort_keys=True, ensure_ascii=True, indent=3))
        replay(here, path)


def test_pictures_elsewhere(here, records, tmp_path):
    """A picture that has moved is given again with -i; in place of two it takes two, in order."""
    with open(METER, "rb") as f:
        data = f.read()
    (tmp_path / "moved.png").write_bytes(data)
    replay(here, records["greedy"], "-i", tmp_path / "moved.png")
    replay(here, records["greedy"], "-i", "-", stdin=data)
    assert "2 pictures, and with -i there must be as many or none" in here.bad(DEMO, "--replay", records["pictures"], "-i", METER)
    line = here.bad(DEMO, "--replay", records["pictures"], "-i", CIRCLES, "-i", METER)
    assert line.startswith(f"smol: {CIRCLES}: is not the picture of the record: its sha256 is ")


def test_another_picture(here, records, changed, tmp_path):
    """The same pixels in other bytes are another picture, too."""
    path = tmp_path / "meter.png"
    with open(METER, "rb") as f:
        path.write_bytes(f.read() + b"\n")
    record = changed(lambda r: r["pictures"][0].update(file=str(path)))
    line = here.bad(DEMO, "--replay", record)
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (path,)]
    assert line.startswith(f"smol: {path}: is not the picture of the record: its sha256 is {digests[0]}, there it is aba9060d")
    path.unlink()
    assert f"{path}: No such file" in here.bad(DEMO, "--replay", record)


def test_another_model(here, records, tiny):
    assert f"{tiny}: is not the model of the record: its sha256 is " in here.bad(tiny, "--replay", records["text"])


def test_damaged_weights(here, records, tmp_path):
    """The model's hash is that of what the file says of its tensors. One that is damaged shows in the logits."""
    with open(DEMO, "rb") as f:
        data = bytearray(f.read())
    data[-3000000] ^= 0x40
    path = tmp_path / "damaged.smol"
    path.write_bytes(data)
    assert "the answer differs: " in here.bad(path, "--replay", records["greedy"])


def put(path, value):
    """A change: the value at a path such as answer.3.token."""
    def change(record):
        *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        for step in way:
            record = record[step]
        record[last] = value
    return change


DIFFERENCES = [
    (put("answer.2.token", 17), "answer[2].token: 17 in the record, 16 now"),
    (put("answer.1.logprob", -0.0006), "answer[1].logprob: -0.0006 in the record, -0.000501739 now"),
    (put("logits_sha256", "00" * 32), f"logits_sha256: {'00' * 32} in the record, 140b1e11"),
    (put("text", "7.6\x1b[2J"), "text: 7.6\\u001b[2J in the record, 7.5 now"),
    (put("text", "7\0"), "text: 7\\u0000 in the record, 7.5 now"),
    (put("finish", "length"), "finish: length in the record, stop now"),
    (put("prompt_tokens.60", 3), "prompt_tokens[60]: 3 in the record, "),
    (put("pictures.0.rows", 2), "pictures[0].rows: 2 in the record, 1 now"),
    (put("pictures.0.cut", [128]), "pictures[0].cut: 1 of them in the record, 2 of them now"),
    (put("prompt", "Read the motor."), "prompt_tokens["),
    (put("options.tokens", 2), "answer: 4 of them in the record, 2 of them now"),
    (put("options.stop", ["."]), "answer: 4 of them in the record, 3 of them now"),
    (put("options.temperature", "0"), "temperature is no option, or has a value that it cannot have"),
    (put("options.temperature", 1e9), "temperature is no option, or has a value that it cannot have"),
    (put("options.trace", "/tmp/x"), "trace is no option"),
    (put("options.stop", [5]), "stop is no option, or has a value that it cannot have"),
    (put("options.tokens", 0), "tokens is no option, or has a value that it cannot have"),
    (put("options.\x1b[2J", 0), "is no record: \\u001b[2J is no option"),
    (put("more", 1), "the record: 15 members in the record, 14 members now"),
    (put("pictures.0.more", 1), "pictures[0]: 11 members in the record, 10 members now"),
    (put("answer", {}), "answer: 0 members in the record, 4 of them now"),
    (lambda r: r.pop("text"), "text: missing in the record, 7.5 now"),
    (lambda r: r["answer"].pop(), "answer: 3 of them in the record, 4 of them now"),
    (lambda r: r["answer"].append({"token": 1, "logprob": -1}), "answer: 5 of them in the record, 4 of them now"),
    (lambda r: r["answer"][3].pop("logprob"), "answer[3].logprob: missing in the record, -0.00"),
    (put("answer.3.token", None), "answer[3].token: null in the record, 23 now"),
    (put("model_sha256", "00"), "demo.smol: is not the model of the record"),
    (put("model_sha256", 5), "model_sha256 is missing or of another kind"),
    (put("pictures.0.sha256", None), "sha256 is missing or of another kind"),
    (put("pictures.0.file", "a\nb"), "file has a control character in it"),
    (put("pictures.0", 7), "file is missing or of another kind"),
    (put("pictures", {}), "pictures is missing or of another kind"),
    (lambda r: r.update(pictures=r["pictures"] * 65), "pictures are too many"),
    (put("format", "smol.c record 2"), "format is not a known one"),
    (put("prompt", None), "prompt is missing or of another kind"),
    (put("prompt", "word " * 2000), "context"),
    (put("options.context", 30), "the context holds 30"),
]


@pytest.mark.parametrize("change, says", [
    (put("choices.1.logprob", -5), "choices[1].logprob: -5 in the record, -"),
    (put("choices.1.tokens.0", 5), "choices[1].tokens[0]: 5 in the record, "),
    (put("options.choices", "7.5,1.5"), "options.tokens: 6 in the record, 5 now"),
    (put("options.choices", "7.5,,1.5"), "is no record: --choices has an empty one"),
    (put("options.choices", ""), "is no record: --choices wants texts"),
    (put("options.choices", None), "answer: missing in the record, 4 of them now"),
])
def test_where_choices_differ(sanitized, changed, change, says):
    assert says in sanitized.bad(DEMO, "--replay", changed(change, "choices"))


@pytest.mark.parametrize("change, says", DIFFERENCES, ids=[says[:40] for _, says in DIFFERENCES])
def test_where_it_differs(sanitized, changed, change, says):
    assert says in sanitized.bad(DEMO, "--replay", changed(change))


def test_what_made_it_is_told_and_not_compared(here, changed):
    def other(record):
        record.update(version="9.9\x1b[2J", source_sha256=None, kernel="abacus", threads=0)
    assert replay(here, changed(other))[1] == "record: version 9.9\\u001b[2J, source_sha256 null, kernel abacus, threads 0"


def test_small_differences_of_logprobs_are_libms(here, changed):
    def change(by):
        def function(record):
            record["answer"][0]["logprob"] += by
        return changed(function)
    replay(here, change(9e-7))
    assert "answer[0].logprob: " in here.bad(DEMO, "--replay", change(1.1e-6))


# ---- videos ----

@pytest.fixture(scope="module")
def film():
    """Ten gray frames of 12 x 8 pixels as Y4M, and each of them as the PPM that it becomes."""
    grays = np.random.default_rng(4).integers(0, 256, (10, 8, 12), dtype=np.uint8)
    frames = [b"P6 12 8 255\n" + np.repeat(gray[..., None], 3, -1).tobytes() for gray in grays]
    return b"YUV4MPEG2 W12 H8 F2000:1001 Cmono XCOLORRANGE=FULL\n" + b"".join(b"FRAME\n" + g.tobytes() for g in grays), frames


@pytest.fixture(scope="module")
def video_record(here, tiny, film, tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    (folder / "film.y4m").write_bytes(film[0])
    here.good(tiny, "-v", folder / "film.y4m", "What happens?", "--max-frames", 4, "-n", 5, "--record", folder / "record.json")
    return folder / "record.json"


def test_videos(here, sanitized, tiny, film, video_record, tmp_path):
    """However the frames are stored: the bytes of those that the model saw, which are some of all."""
    stream, frames = film
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames):
        (folder / f"{i}.ppm").write_bytes(frame)
    record = json.loads(video_record.read_bytes())
    video = record["video"]
    assert {k: video[k] for k in ("width", "height", "fps", "total")} == {"width": 12, "height": 8, "fps": 2000 / 1001, "total": 10}
    assert record["options"]["max-frames"] == 4 and len(video["frames"]) == 4 and video["frames"][3]["index"] == 9
    assert [f["sha256"] for f in video["frames"]] == [hashlib.sha256(frames[f["index"]]).hexdigest() for f in video["frames"]]
    for kernel in here.good("--kernels").decode().split():
        replay(here, video_record, "--kernel", kernel, "-j", 3, model=tiny)
    replay(sanitized, video_record, "-v", "-", model=tiny, stdin=stream)
    for name, options in (folder, ["--fps", repr(2000 / 1001)]), ("-", ["--fps", "3"]):
        other = tmp_path / "other.json"
        here.good(tiny, "-v", name, "What?", "--max-frames", 3, *options, "--record", other, stdin=b"".join(frames))
        replay(here, other, model=tiny, stdin=b"".join(frames))
        assert json.loads(other.read_bytes())["options"]["fps"] == float(options[1])


def test_another_video(here, tiny, film, video_record, records, tmp_path):
    """It is named before the frame is encoded; a frame that the model did not see may be another."""
    stream, frames = film
    seen = [f["index"] for f in json.loads(video_record.read_bytes())["video"]["frames"]]
    for i in range(len(frames)):
        path, data = tmp_path / "other.y4m", bytearray(stream)
        data[stream.index(b"FRAME") + (i + 1) * (6 + 96) - 1] ^= 1
        path.write_bytes(data)
        if i in seen:
            line = here.bad(tiny, "--replay", video_record, "-v", path)
            assert line.startswith(f"smol: {path}: is not the frame {i + 1} of the record: its sha256 is ")
        else:
            replay(here, video_record, "-v", path, model=tiny)
    assert "the answer has no video" in here.bad(DEMO, "--replay", records["text"], "-v", path)
    assert "the answer has 0 pictures" in here.bad(tiny, "--replay", video_record, "-i", METER)
    assert "No such file" in here.bad(tiny, "--replay", video_record, "-v", tmp_path / "none")


@pytest.mark.parametrize("change, says", [
    (put("video.fps", 25), "video.fps: 25 in the record, 1.998"),
    (put("video.total", 11), "video.total: 11 in the record, 10 now"),
    (put("video.frames.1.index", 2), "video.frames[1].index: 2 in the record, 3 now"),
    (lambda r: r["video"]["frames"].pop(), "video.frames: 3 of them in the record, 4 of them now"),
    (lambda r: r["video"]["frames"].append(5), "video.frames: 5 of them in the record, 4 of them now"),
    (put("video.frames.2", 5), "sha256 is missing or of another kind"),
    (put("video.frames", {}), "frames is missing or of another kind"),
    (put("video.file", 5), "file is missing or of another kind"),
    (put("video", []), "video is missing or of another kind"),
    (lambda r: r.pop("video"), "prompt_tokens"),
    (put("options.max-frames", 3), "of the record: its sha256 is "),
    (put("options.fps", 0), "fps is no option, or has a value that it cannot have"),
    (put("pictures", [{"file": METER, "sha256": ""}]), "a question has pictures or a video, not both"),
])
def test_where_videos_differ(sanitized, tiny, video_record, tmp_path, change, says):
    record = json.loads(video_record.read_bytes())
    change(record)
    (tmp_path / "changed.json").write_text(json.dumps(record))
    assert says in sanitized.bad(tiny, "--replay", tmp_path / "changed.json")


# ---- hostile records ----

BROKEN = [
    (b"", "a value is missing"), (b"{", "the name of a member is missing"), (b"[1,]", "a value is missing"), (b"{}x", "something follows"),
    (b'{"a":1,}', "the name of a member"), (b'{"a" 1}', "a colon"), (b"[1 2]", "a comma or a closing bracket"), (b"[1}", "a comma or"),
    (b"[" * 17, "too many brackets"), (b"[" * 16 + b"]" * 16, "format is missing"), (b"[" * 100000, "too many brackets"),
    (b'"\\q"', "after a backslash"), (b'"\\u12g4"', "after a backslash"), (b'"\\u0000"', "format is missing"), (b'"\\ud800"', "after a backslash"),
    (b'"\\ud800\\u0041"', "after a backslash"), (b'"\\udc00"', "after a backslash"), (b'"\\', "after a backslash"), (b'"ab', "has no end"),
    (b'"a\nb"', "a control character"), (b'"a\0b"', "a control character"), (b'"\xff"', "not UTF-8"), (b'"\xc0\xaf"', "not UTF-8"), (b'"\xed\xa0\x80"', "not UTF-8"),
    (b'"\xe2\x82"', "not UTF-8"), (b"01", "something follows"), (b"-", "not a number"), (b"1.", "not a number"), (b"1e", "not a number"),
    (b".5", "a value is missing"), (b"+1", "a value is missing"), (b"NaN", "a value is missing"), (b"nul", "a value is missing"), (b"\0", "a value is missing"),
    (b"\xef\xbb\xbf{}", "a value is missing"), (b"[1]\n\n\n]", "line 4: something follows"), (b"null", "format is missing"), (b"{}", "format is missing"),
    (b'{"format": "smol.c record 1"}', "pictures is missing"), (b"[" + b"1," * (1 << 23) + b"1]", "it is too large"),
]


@pytest.mark.parametrize("content, says", BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_broken_records(sanitized, tmp_path, content, says):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    line = sanitized.bad(DEMO, "--replay", path)
    assert line.startswith(f"smol: {path}: is no record: ") and says in line


def test_no_record_at_all(program, tmp_path):
    assert "none.json: No such file" in program.bad(DEMO, "--replay", tmp_path / "none.json")
    assert "is a folder" in program.bad(DEMO, "--replay", tmp_path)


def test_cuts_and_flips(sanitized, records, tmp_path):
    """Any byte lost or changed: an error, a difference, or a change that does not matter; never a crash."""
    data, path, chance = records["text"].read_bytes(), tmp_path / "hostile.json", random.Random(1)
    assert len(data) < 3000
    for n in range(0, len(data) - 3, 41):
        path.write_bytes(data[:n])
        assert sanitized.bad(DEMO, "--replay", path)
    for _ in range(60):
        i = chance.randrange(len(data))
        path.write_bytes(data[:i] + bytes([chance.randrange(256)]) + data[i + 1:])
        done = sanitized(DEMO, "--replay", path)
        assert done.returncode in (0, 1) and b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr, done


# ---- the source's hash ----

def test_version_has_the_hash_of_the_source(here):
    by_hand = subprocess.run(["sh", "-c", "sha256sum *.c *.h | sha256sum"], cwd=ROOT, env={**os.environ, "LC_ALL": "C"}, capture_output=True,
                             check=True).stdout.split()[0]
    assert here.good("--version") == b"smol 0.1, source sha256 " + by_hand + b"\n"


def test_a_change_anywhere_changes_the_hash(tmp_path):
    """Also where only one object is made again."""
    copy_to = tmp_path / "source"
    subprocess.run(["sh", "-c", f"mkdir {copy_to} && cp Makefile *.c *.h {copy_to}"], cwd=ROOT, check=True)
    made = []
    for change in ("", "// more\n"):
        with open(copy_to / "decoder.c", "a") as f:
            f.write(change)
        if change:
            os.utime(copy_to / "decoder.c", (os.path.getmtime(copy_to / "build/version.o") + 9,) * 2)
        subprocess.run(["make", "-s", "run", "CFLAGS=-O0"], cwd=copy_to, check=True)
        made.append(subprocess.run([copy_to / "run", "--version"], capture_output=True).stdout)
    assert made[0] != made[1]
    subprocess.run(["make", "-s", "run", "CFLAGS=-O0", "SHA256SUM=", "BUILD=other"], cwd=copy_to, check=True)
    assert subprocess.run([copy_to / "other/run", "--version"], capture_output=True).stdout == b"smol 0.1, source sha256 unknown\n"
