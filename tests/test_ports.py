"""Other machines: 32-bit Arm and x86, Windows under wine, files beyond 4 GiB, files that cannot be mapped.

Each must give the answer of this machine, to the last bit of its logits. What a machine lacks for one of them is skipped and named.
"""

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest

from harness import ENVIRONMENT, ROOT, call

DEMO = os.path.join(ROOT, "models", "demo", "demo.smol")
PICTURE = os.path.join(ROOT, "models", "demo", "pictures", "06_display.png")
QUESTION = "Read the meter."
QEMU_ARM = ["qemu-arm", "-L", "/usr/arm-linux-gnueabihf"]
WINE = next((w for w in ("/usr/lib/wine/wine64", shutil.which("wine64")) if w and os.path.exists(w)), None)
MODELS = ("f32", "q8", "q4")


def need(*tools):
    missing = [t for t in tools if not (t and shutil.which(t))]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(map(str, missing))}")


def build(folder, compiler, flags, *more):
    """The program, built by the Makefile for another machine."""
    call("make", f"BUILD={folder}", f"CC={compiler}", f"CFLAGS=-O2 -Werror {flags}", *more, f"{folder}/run")
    return os.path.join(folder, "run")


def run(*command, stdin=b"", env=None):
    return subprocess.run([str(c) for c in command], input=stdin, capture_output=True, timeout=300, env=env or ENVIRONMENT)


def answer(command, model, *options, **how):
    done = run(*command, model, "-j", 1, "--json", "-i", PICTURE, *options, QUESTION, **how)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def bad_line(command, *args, **how):
    """The one line of a run that must fail."""
    done = run(*command, *args, **how)
    line = done.stderr.decode()
    assert done.returncode == 1 and not done.stdout and line.startswith("smol: ") and line.count("\n") == 1, done
    return line


@pytest.fixture(scope="module")
def here():
    call("make", "-s", "run")
    return os.path.join(ROOT, "run")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The demonstration model in each type of weights."""
    folder, paths = tmp_path_factory.mktemp("models"), {"f32": DEMO}
    for kind in MODELS[1:]:
        paths[kind] = os.path.join(folder, kind + ".smol")
        call(sys.executable, "export/export.py", "models/demo", "--type", kind, "-o", paths[kind], "--quiet")
    return paths


@pytest.fixture(scope="module")
def expected(here, models):
    """Text and digest on this machine, by type of weights."""
    return {kind: said(answer([here], path)) for kind, path in models.items()}


def said(answer):
    return answer["text"], answer["logits_sha256"]


# ---- 32 bits ----

@pytest.fixture(scope="module")
def x86(tmp_path_factory):
    # Debian's gcc-multilib, which brings the link that -idirafter stands for, cannot be there with the cross compiler for Arm.
    flags = "-m32 -idirafter /usr/include/x86_64-linux-gnu"
    probe = b"#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }"
    program = tmp_path_factory.mktemp("probe") / "probe"
    if run("gcc", *flags.split(), "-x", "c", "-", "-o", program, stdin=probe).returncode or run(program).returncode:
        pytest.skip("gcc cannot build or run 32-bit programs here (Debian: gcc-VERSION-multilib)")
    return [build(tmp_path_factory.mktemp("x86"), "gcc", flags)]


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    need("arm-linux-gnueabihf-gcc", "qemu-arm")
    # With a fused multiply-add, which Debian's baseline lacks: in software it takes half a minute.
    return [*QEMU_ARM, build(tmp_path_factory.mktemp("arm"), "arm-linux-gnueabihf-gcc", "-mfpu=neon-vfpv4")]


@pytest.mark.parametrize("kind", MODELS)
def test_x86_gives_the_same(x86, models, expected, kind):
    assert said(answer(x86, models[kind])) == expected[kind]


@pytest.mark.parametrize("kind", MODELS)
def test_arm_gives_the_same(arm, models, expected, kind):
    assert said(answer(arm, models[kind])) == expected[kind]


def test_a_model_from_a_pipe(x86, models, expected):
    """The bytes come to lie where malloc wants them."""
    for kind, path in models.items():
        with open(path, "rb") as f:
            assert said(answer(x86, "-", stdin=f.read())) == expected[kind]


def test_more_than_32_bits_can_address(x86, tmp_path):
    path = tmp_path / "huge.smol"
    for size in (1 << 31, (1 << 32) + 5):
        with open(path, "wb") as f:
            f.truncate(size)
        assert f"{size} bytes are more than this 32-bit program can address" in bad_line(x86, path, "What?")


def test_memory_that_is_not_there(x86, models, tmp_path):
    """A picture whose pixels are more than 32 bits address."""
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 16384, 16384, 16, 6, 0, 0, 0, 0) + bytes(99))
    assert str(path) in bad_line(x86, models["f32"], "-i", path, "What?")


# ---- records ----

@pytest.fixture(scope="module")
def aarch64(tmp_path_factory):
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    return ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", build(tmp_path_factory.mktemp("aarch64"), "aarch64-linux-gnu-gcc", "")]


@pytest.mark.parametrize("port", ["x86", "arm", "aarch64", "windows"])
def test_a_record_replays_there_and_back(request, port, here, models, tmp_path):
    """In each type of weights, with each kernel there; and one that is made there replays here."""
    program, record = request.getfixturevalue(port), tmp_path / "record.json"
    asked = ["-i", PICTURE, "-t", "1.5", "--seed", "7", "-n", "5", QUESTION, "--record", record]
    for model in models.values():
        assert run(here, model, *asked).returncode == 0
        for kernel in run(*program, "--kernels").stdout.decode().split():
            done = run(*program, model, "--replay", record, "--kernel", kernel, "-j", 1)
            assert done.returncode == 0 and done.stdout.startswith(b"equal: ") and f"kernel {kernel}".encode() in done.stdout, done
        assert run(*program, model, *asked, "-j", 1).returncode == 0
        done = run(here, model, "--replay", record)
        assert done.returncode == 0 and done.stdout.startswith(b"equal: "), done


# ---- what would change the bits ----

@pytest.mark.parametrize("flags, why", [
    ("-ffast-math", "never with -ffast-math"), ("-Ofast", "never with -ffast-math"),
    ("-m32 -mfpmath=387", "float must be computed as float")])
def test_refused_options(flags, why):
    need("gcc")
    done = run("gcc", "-std=c11", "-ffreestanding", *flags.split(), "-fsyntax-only", os.path.join(ROOT, "quant.c"))
    assert done.returncode == 1 and why in done.stderr.decode()


def test_refused_big_endian():
    need("clang")
    done = run("clang", "--target=powerpc64-linux-gnu", "-std=c11", "-ffreestanding", "-fsyntax-only", os.path.join(ROOT, "quant.c"))
    assert done.returncode == 1 and b"little-endian: this machine is not" in done.stderr


# ---- files ----

def test_a_file_beyond_4_gib(here, expected, tmp_path):
    """The last half of the tensors lies beyond 4 GiB of nothing."""
    with open(DEMO, "rb") as f:
        data = bytearray(f.read())
    directory, n_tensors = struct.unpack_from("<QI", data, 48)
    entry = directory + 160 * (n_tensors // 2)
    begin, gap = struct.unpack_from("<Q", data, entry + 112)[0], 1 << 32
    for at in range(entry, directory + 160 * n_tensors, 160):
        struct.pack_into("<Q", data, at + 112, struct.unpack_from("<Q", data, at + 112)[0] + gap)
    struct.pack_into("<Q", data, 8, len(data) + gap)
    path = tmp_path / "huge.smol"
    with open(path, "wb") as f:
        f.write(data[:begin])
        f.seek(begin + gap)
        f.write(data[begin:])
    assert said(answer([here], path)) == expected["f32"]
    assert b"109 of 109 tensors" in run(here, path, "--verify").stdout


MMAP = r"""
#include <errno.h>
#include <stddef.h>
void *mmap64(void *at, size_t n, int protection, int flags, int fd, long offset) {
    (void)at, (void)n, (void)protection, (void)flags, (void)fd, (void)offset;
    errno = %s;
    return (void *)-1;
}
void *mmap(void *at, size_t n, int protection, int flags, int fd, long offset) {
    return mmap64(at, n, protection, flags, fd, offset);
}
"""


@pytest.fixture
def without_mmap(here, tmp_path):
    """Environments in which mmap fails in one way or another."""
    def environment(error):
        source, library = tmp_path / "mmap.c", tmp_path / "mmap.so"
        source.write_text(MMAP % error)
        call("cc", "-shared", "-fPIC", source, "-o", library)
        return {**ENVIRONMENT, "LD_PRELOAD": str(library)}
    return environment


def test_what_cannot_be_mapped_is_read(here, without_mmap, models, expected):
    env = without_mmap("ENODEV")
    for kind, path in models.items():
        assert said(answer([here], path, env=env)) == expected[kind]


def test_no_room_to_map(here, without_mmap):
    assert "cannot be mapped into memory" in bad_line([here], DEMO, "What?", env=without_mmap("ENOMEM"))


def test_read_only(here, expected, tmp_path):
    path = tmp_path / "model.smol"
    shutil.copy(DEMO, path)
    path.chmod(0o444)
    assert said(answer([here], path)) == expected["f32"]


# ---- Windows ----

@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    need("x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-windres", WINE)
    call("make", "-s", "windows")
    program = os.path.join(ROOT, "build", "windows", "run.exe")
    os.environ.update(WINEPREFIX=str(tmp_path_factory.mktemp("wine")), WINEDEBUG="-all", DISPLAY="")
    ENVIRONMENT.update({k: os.environ[k] for k in ("WINEPREFIX", "WINEDEBUG", "DISPLAY")})
    if run(WINE, program, "--kernels").returncode:
        pytest.skip("wine does not run here")
    return [WINE, program]


@pytest.mark.parametrize("kind", MODELS)
def test_windows_gives_the_same(windows, models, expected, kind):
    kernels = run(*windows, "--kernels").stdout.decode().split()
    for kernel in kernels:
        assert said(answer(windows, models[kind], "--kernel", kernel)) == expected[kind], kernel


def test_windows_pipes(windows, expected):
    """A model and a chat from standard input, which must not be read as text; line ends of both kinds."""
    with open(DEMO, "rb") as f:
        assert said(answer(windows, "-", stdin=f.read())) == expected["f32"]
    done = run(*windows, DEMO, stdin=f"/image {PICTURE}\r\n{QUESTION}\r\n{QUESTION}\n".encode())
    assert done.stdout == b"7.5\n7.5\n"
    frame = b"P6 8 8 255\n" + bytes(range(192))
    done = run(*windows, DEMO, "-v", "-", "What?", stdin=frame * 3)
    assert done.returncode == 0, done


def test_windows_files(windows, here, tmp_path):
    """A trace replaces what was there; tiles go to a new folder; names and questions are UTF-8."""
    for program, name in [(windows, "a"), (windows, "a"), ([here], "b")]:
        run(*program, DEMO, "--trace", tmp_path / name, "--dump-tiles", tmp_path / (name + "dir"), "-i", PICTURE, QUESTION)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path / "adir")) == sorted(os.listdir(tmp_path / "bdir"))
    name = tmp_path / "gr\u00fcn \u65e5.png"
    shutil.copy(PICTURE, name)
    for program in windows, [here]:
        assert run(*program, DEMO, "-i", name, QUESTION).stdout == b"7.5\n"
    texts = [run(*program, DEMO, "--tokenize", "gr\u00fcn \u65e5\u672c").stdout for program in (windows, [here])]
    assert texts[0] == texts[1] != b""
    assert "No such file" in bad_line(windows, tmp_path / "none.smol", "What?")
