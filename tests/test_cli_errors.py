"""The command line with bad input: exactly one line on standard error that names the file and the fault, exit status 1
(2 for wrong usage), nothing on standard output, never a crash. Every test runs the sanitizer build, too.

Cuts at every byte and flips of every byte of a model file are in test_model.c, inside one process.
"""

import os
import re
import resource
import struct
import subprocess
import zlib

import pytest

from conftest import ppm

# ---- wrong usage: exit status 2 ----

USAGE = [
    ([], "no MODEL"),
    (["--unknown", "M", "hi"], "unknown option --unknown"),
    (["M", "hi", "--tokens=5"], "unknown option --tokens=5"),
    (["M", "hi", "-n"], "value is missing after -n"),
    (["M", "-i"], "value is missing after -i"),
    (["M", "one", "two"], "more than one PROMPT"),
    (["M", "hi", "--special"], "--special goes with --raw"),
    (["M", "hi", "--raw", "-s", "be kind"], "--raw has no template"),
    (["M", "--raw"], "want a PROMPT"),
    (["M", "--tokenize"], "want a PROMPT"),
    (["M", "--plan"], "want a PROMPT"),
    (["M", "--trace", "x.safetensors"], "want a PROMPT"),
    (["M", "--info", "hi"], "take no prompt"),
    (["M", "--verify", "-i", "a.png"], "take no prompt and no picture"),
    (["M", "--info", "--verify"], "one at a time"),
    (["M", "hi", "--plan", "--tokenize"], "one at a time"),
    (["M", "--info", "--json"], "have no JSON"),
    (["M", "hi", "--plan", "--json"], "have no JSON"),
    (["M", "hi", "--trace", "x.safetensors", "--plan"], "have no trace"),
    (["M", "hi", "-i", "-", "-i", "-"], "only one picture"),
    (["M", "-i", "-"], "a chat reads questions from standard input"),
    (["M", "hi", *["-i", "a.png"] * 65], "too many pictures"),
    (["M", "hi", "--stop", ""], "--stop wants a text"),
    (["M", "hi", "--stop", b"\x80"], "--stop wants a text"),
    (["M", "hi", *["--stop", "a"] * 17], "too many texts to stop at"),
    (["M", "hi", "--stop", b"a\xe4"], "--stop wants a text"),
    (["M", "--record", "r"], "--record wants a PROMPT"),
    (["M", "hi", "--record", "r", "--plan"], "--record wants a PROMPT"),
    (["--replay", "r"], "no MODEL"),
    (["M", "hi", "--replay", "r"], "takes no other"),
    (["M", "--replay", "r", "--seed", "1"], "does not go with --seed"),
    (["M", "--replay", "r", "--record", "r"], "does not go with --record"),
    (["M", "--trace", "x", "--replay", "r"], "does not go with --trace"),
]


@pytest.mark.parametrize("args, part", USAGE, ids=[part for _, part in USAGE])
def test_wrong_usage(program, args, part):
    assert part in program.bad(*args, status=2)


NO_NUMBERS = ["12x", "", "nan", "inf", "1e99", "-3", "0x10", " 5", "5 ", "+5", "99999999999999999999", "one", "1,5"]


@pytest.mark.parametrize("option", "-n -c -j --logprobs --top-k --seed -t --top-p --min-p --repeat-penalty --tokens --temperature --context --threads".split())
def test_no_number(program, option):
    for text in NO_NUMBERS:
        line = program.bad("M", "hi", option, text, status=2)
        assert option in line and "number" in line and text in line, line


@pytest.mark.parametrize("args", [["-n", "0"], ["-c", "0"], ["-j", "0"], ["-n", "1.5"], ["-n", "2147483648"], ["-t", "101"],
                                  ["--top-p", "1.1"], ["--min-p", "1.1"], ["--repeat-penalty", "0.9"], ["--top-p", "."], ["-t", "1e"], ["--seed", "18446744073709551616"]])
def test_number_out_of_range(program, args):
    assert args[1] in program.bad("M", "hi", *args, status=2)


def test_unknown_kernel_and_too_many_threads(program, tiny):
    assert "kernel xyz is not known" in program.bad(tiny, "hi", "--kernel", "xyz")
    assert "kernel " in program.bad(tiny, "hi", "--kernel", "k" * 5000)
    assert "5000 threads" in program.bad(tiny, "hi", "-j", 5000)


# ---- model files ----

@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Writes bytes to a file; returns its path."""
    folder = tmp_path_factory.mktemp("files")

    def write(name, content):
        (folder / name).write_bytes(content)
        return folder / name
    return write


def bad_model(program, path, part):
    for args in (["hi"], ["--info"], ["--verify"], []):
        line = program.bad(path, *args)
        assert line.startswith(f"smol: {path}: ") and part in line, line


def test_model_is_no_model(program, file, tmp_path):
    bad_model(program, tmp_path / "none.smol", "No such file")
    bad_model(program, tmp_path, "is a folder")
    bad_model(program, file("empty", b""), "is empty")
    bad_model(program, file("text", b"This is a text.\n" * 100), "not a .smol file")
    bad_model(program, file("short", b"SMO"), "not a .smol file")


def test_model_forgotten(program, file, picture):
    hint = "; the first word is the MODEL, a .smol file: run MODEL [options] [PROMPT]\n"
    line = program.bad("-i", picture, "What is this?")
    assert line == f"smol: What is this?: No such file or directory{hint}"
    assert program.bad(picture, "What is this?").endswith(hint)
    for name in ("none.smol", file("damaged.smol", b"x" * 600), "-"):
        assert hint not in program.bad(name, "hi")


def test_model_of_another_version(program, file, tiny):
    content = bytearray(tiny.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    bad_model(program, file("version", content), "version 2, this program reads version 1")


def test_model_cut_off_or_too_long(program, file, tiny):
    content = tiny.read_bytes()
    for n in (8, 63, 511, 512, 4096, len(content) // 2, len(content) - 64, len(content) - 1):
        bad_model(program, file("cut", content[:n]), "cut off")
    bad_model(program, file("long", content + b"\0"), "added to")
    # The same with a header that agrees with the length, so that the tensors' places decide.
    for n in (len(content) - 64, len(content) // 2, 4096):
        bad_model(program, file("cut", content[:8] + struct.pack("<Q", n) + content[16:n]), "outside the file")


# ---- pictures ----

def png(width, height, data=b"", tail=b""):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg(width, height):
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xff\xd9"


WHOLE_PNG = png(40, 30, bytes(30 * (1 + 3 * 40)))
PICTURES = {
    "empty": (b"", "is empty"),
    "text": (b"no picture, a text\n", "not a picture"),
    "gif": (b"GIF89a" + bytes(50), "GIF"),
    "ppm header cut": (b"P6 40", "cut off"),
    "ppm without pixels": (b"P6 40 30 255\n", "cut off"),
    "ppm cut": (ppm(40, 30)[:-1], "cut off"),
    "ppm 0x0": (b"P6 0 0 255\n", "0 x 0"),
    "ppm 100000x100000": (b"P6 100000 100000 255\n", "100000 x 100000"),
    "ppm overflow": (b"P6 99999999999999999999 1 255\n", "PNM: "),
    "png signature": (WHOLE_PNG[:8], "ends before"),
    "png header cut": (WHOLE_PNG[:20], "IHDR"),
    "png cut": (WHOLE_PNG[:60], "PNG: "),
    "png pixels missing": (png(40, 30, bytes(500)), "end too early"),
    "png 0x0": (png(0, 0), "0 x 0"),
    "png 100000x100000": (png(100000, 100000), "100000 x 100000"),
    "jpeg cut": (b"\xff\xd8\xff", "JPEG"),
    "jpeg 0x0": (jpeg(0, 0), "0 x 0"),
    "jpeg 65535x65535": (jpeg(65535, 65535), "65535 x 65535"),
    "jpeg without tables": (jpeg(40, 30), "JPEG"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_bad_picture(program, file, tiny, picture, name):
    content, part = PICTURES[name]
    path = file(name, content)
    line = program.bad(tiny, "hi", "-i", picture, "-i", path)
    assert line.startswith(f"smol: {path}: ") and part in line, line
    assert part in program.bad(tiny, "hi", "-i", "-", stdin=content)


def test_no_such_picture(program, tiny, tmp_path):
    assert f"{tmp_path}/none.png: No such file" in program.bad(tiny, "hi", "-i", tmp_path / "none.png")
    assert f"{tmp_path}: is a folder" in program.bad(tiny, "hi", "-i", tmp_path)
    assert f"{tmp_path}/none.png: No such file" in program.bad(tiny, "-i", tmp_path / "none.png")


# ---- what does not fit ----

def proposals(line):
    """The options that an error line offers, each to be used alone."""
    context = re.search(r"-c (\d+) would fit", line)
    return ([["-c", context[1]]] if context else []) + ([["--no-tiling"]] if "--no-tiling would fit" in line else [])


def prompt_tokens(program, *args):
    return len(program.good(*args, "--tokenize").split())


@pytest.mark.parametrize("context, n_proposals", [(120, 2), (100, 2), (40, 2), (10, 1)])
def test_more_image_tokens_than_the_context(program, tiny, picture, context, n_proposals):
    args = [tiny, "What is it?", "-i", picture, "-n", "3"]
    n = prompt_tokens(program, *args)
    line = program.bad(*args, "-c", context)
    assert f"has {n} tokens, 68 of them from 17 tiles, and the context holds {context} " in line
    found = proposals(line)
    assert len(found) == n_proposals, line
    for extra in found:
        program.good(*args, *([] if extra[0] == "-c" else ["-c", context]), *extra)


def test_more_pictures_than_the_model_can_take(program, tiny, picture):
    args = [tiny, "Which?", *["-i", picture] * 12, "-n", "3"]
    line = program.bad(*args)
    assert "816 of them from 204 tiles" in line and "the model's most is 1024" in line
    assert proposals(line) == [["--no-tiling"]]
    program.good(*args, "--no-tiling")
    line = program.bad(tiny, "Which? " * 600, *["-i", picture] * 12)
    assert proposals(line) == []  # neither would help


def test_prompt_longer_than_the_context(program, tiny):
    assert proposals(program.bad(tiny, "word " * 2000)) == []
    line = program.bad(tiny, "word " * 20, "-c", 16, "-n", "3")
    assert "the context holds 16 " in line
    [extra] = proposals(line)
    program.good(tiny, "word " * 20, *extra, "-n", "3")
    # A prompt that leaves room for one token is answered with one; without that room it is refused.
    n = prompt_tokens(program, tiny, "hi")
    assert "holds" in program.bad(tiny, "hi", "-c", n)
    program.good(tiny, "hi", "-c", n + 1)


def test_context_larger_than_the_model_allows(program, tiny):
    assert "context 1025 is not within 1 to the model's 1024" in program.bad(tiny, "hi", "-c", 1025)


def test_prompt_that_is_none(program, tiny):
    assert "prompt is empty" in program.bad(tiny, "", "--raw")


# ---- machines that have too little ----

def limit(what, n):
    return lambda: resource.setrlimit(what, (n, n))


@pytest.fixture(scope="module")
def roomy(file, tiny):
    """The tiny model with a context of 2^20 positions, which takes 604 MB."""
    content = bytearray(tiny.read_bytes())
    content[100:104] = struct.pack("<I", 1 << 20)
    return file("roomy", content)


def test_not_enough_memory(plain, roomy, picture):
    few = {"preexec_fn": limit(resource.RLIMIT_AS, 200 << 20)}
    line = plain.bad(roomy, "hi", "-c", 1 << 20, **few)
    assert "not enough memory" in line and "smaller -c" in line
    plain.good(roomy, "hi", "-c", 100000, "-n", "2", **few)
    assert "not enough memory" in plain.bad(roomy, "-c", 1 << 20, **few)


def test_every_amount_of_memory(plain, tiny, tmp_path, picture):
    """Less and less memory: an answer or one line, as long as the program can be loaded at all."""
    path = tmp_path / "large.ppm"
    path.write_bytes(b"P6 1500 1500 255\n" + bytes(3 * 1500 * 1500))
    n_failed = 0
    for n in range(40 << 20, 2 << 20, -(1 << 20)):
        few = {"preexec_fn": limit(resource.RLIMIT_AS, n)}
        if plain("--version", **few).returncode:
            break
        result = plain(tiny, "hi", "-i", path, "-n", "2", **few)
        if result.returncode:
            n_failed += 1
            assert result.returncode == 1 and not result.stdout
            assert re.fullmatch(rb"smol: [^\n]*memory[^\n]*\n", result.stderr), result
    assert n_failed > 3


@pytest.mark.parametrize("args", [["hi", "-n", "4"], ["hi", "--json", "-n", "4"], ["hi", "--plan"], ["hi", "--tokenize"],
                                  ["--info"], ["--verify"], ["--kernels"]], ids=" ".join)
def test_output_cannot_be_written(program, tiny, args):
    read, write = os.pipe()
    os.close(read)
    outputs = [os.fdopen(write, "wb")] + ([open("/dev/full", "wb")] if os.path.exists("/dev/full") else [])
    for output in outputs:
        with output:
            result = program(tiny, *args, stdout=output)
        assert (result.returncode, result.stderr) == (1, b"smol: standard output: cannot be written to\n"), args


def test_chat_ends_when_its_output_is_closed(program, tiny):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as output:
        result = program(tiny, "-n", "2", stdin=b"hi\nho\n", stdout=output)
    assert (result.returncode, result.stderr) == (1, b"smol: standard output: cannot be written to\n")


# ---- --trace ----

def test_trace_on_a_full_disk(program, tiny, picture, tmp_path):
    """A limit on the size of files stands for the full disk: within the pieces, and within the final file."""
    for name, old in (("new", None), ("old", b"an older trace")):
        folder = tmp_path / name
        folder.mkdir()
        path = folder / "t.safetensors"
        if old:
            path.write_bytes(old)
        for n in (0, 5000, 300000):
            full = {"preexec_fn": limit(resource.RLIMIT_FSIZE, n)}
            result = program(tiny, "hi", "-i", picture, "-n", "2", "--trace", path, **full)
            assert result.returncode == 1 and re.fullmatch(rb"smol: [^\n]*t\.safetensors: [^\n]+\n", result.stderr), result
            assert os.listdir(folder) == (["t.safetensors"] if old else [])
            assert not old or path.read_bytes() == old


def test_trace_that_cannot_be_written(program, tiny, tmp_path):
    assert "No such file" in program.bad(tiny, "hi", "--trace", tmp_path / "none" / "t")
    assert "no regular file" in program.bad(tiny, "hi", "--trace", tmp_path)
    assert "no regular file" in program.bad(tiny, "hi", "--trace", "/dev/null")
    assert os.listdir(tmp_path) == []


def test_trace_is_removed_when_the_output_fails(program, tiny, tmp_path):
    with open("/dev/full", "wb") as full:
        result = program(tiny, "hi", "--trace", tmp_path / "t", stdout=full)
    assert result.returncode == 1 and os.listdir(tmp_path) == []


def test_trace_of_a_killed_program(program, tiny, tmp_path):
    process = program.start(tiny, "hi", "-n", "900", "-t", "1", "--trace", tmp_path / "t", stdout=subprocess.PIPE)
    with process.stdout:
        assert os.read(process.stdout.fileno(), 1)
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) in ([], ["t"])  # the second if it was done before


# ---- --verify ----

def test_verify_names_the_damaged_tensor(program, file, tiny):
    content = bytearray(tiny.read_bytes())
    directory, n_tensors = struct.unpack_from("<QI", content, 48)
    for i in (0, 17, n_tensors - 1):
        name, offset, size = struct.unpack_from("<96s16xQQ", content, directory + 160 * i)
        damaged = bytearray(content)
        damaged[offset + size - 1] ^= 1
        result = program(file("damaged", damaged), "--verify")
        name = name.rstrip(b"\0").decode()
        assert result.returncode == 1 and re.fullmatch(f"smol: [^\n]*damaged: {name} [^\n]+\n", result.stderr.decode())
        assert f"{n_tensors - 1} of {n_tensors} tensors" in result.stdout.decode()
