"""What the tests of the command line share: two builds of the program, tiny models, pictures."""

import glob
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STRICT = "-std=c11 -ffp-contract=off -O1 -g -Wno-unknown-pragmas".split()
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all".split()

# Tests that call make do not do so as a part of the make that may run them.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

# One thread unless a test says otherwise: two threads that wait for a busy processor wait long.
DEFAULTS = ["-j", "1"]


class Program:
    """A built program. Calling it runs it to its end and gives status, stdout and stderr (bytes)."""

    def __init__(self, path, sanitized):
        self.path, self.sanitized = str(path), sanitized
        # What is never freed lives as long as the process: no leak.
        self.env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "OMP_WAIT_POLICY": "passive"}

    def command(self, args):
        return [self.path, *DEFAULTS, *(os.fspath(a) if isinstance(a, os.PathLike) else str(a) if isinstance(a, int) else a
                                        for a in args)]

    def __call__(self, *args, stdin=b"", **how):
        how.setdefault("stdout", subprocess.PIPE)
        return subprocess.run(self.command(args), input=stdin, stderr=subprocess.PIPE, env=self.env, timeout=120, **how)

    def start(self, *args, **how):
        return subprocess.Popen(self.command(args), env=self.env, **how)

    def good(self, *args, **how):
        """Standard output of a run that must succeed and say nothing on standard error."""
        result = self(*args, **how)
        assert result.returncode == 0 and result.stderr == b"", (args, result)
        return result.stdout

    def bad(self, *args, status=1, **how):
        """The one line of a run that must fail."""
        result = self(*args, **how)
        line = result.stderr.decode()
        assert result.returncode == status and not result.stdout, (args, result)
        assert re.fullmatch(r"smol: [^\n\x00-\x1f\x7f]+\n", line), (args, line)
        return line


@pytest.fixture(scope="session")
def plain():
    """./run as make builds it."""
    subprocess.run(["make", "-s", "run"], cwd=ROOT, check=True)
    return Program(os.path.join(ROOT, "run"), False)


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    """The program with the address and undefined-behaviour sanitizers."""
    path = tmp_path_factory.mktemp("sanitized") / "run"
    sources = sorted(glob.glob(os.path.join(ROOT, "*.c")))
    subprocess.run([os.environ.get("CC", "cc"), *STRICT, *SANITIZERS, *sources, "-o", path, "-lm"], check=True)
    return Program(path, True)


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def program(request):
    return request.getfixturevalue(request.param)


def make_model(folder, **shape):
    """A random model: returns the path of its .smol file; the Hugging Face folder lies beside it, as "hf"."""
    sys.path.insert(0, os.path.join(ROOT, "tests"))
    import tiny_model
    tiny_model.make_folder(folder / "hf", **shape)
    path = folder / "model.smol"
    export = [sys.executable, os.path.join(ROOT, "export", "export.py"), folder / "hf", "-o", path, "--quiet"]
    subprocess.run(export, check=True)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """1024 positions, tiles of 36 pixels and 4 tokens, pictures of up to 4 x 4 tiles and the whole view."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def big(tmp_path_factory):
    """35 MB, so that the model outweighs the program in memory."""
    return make_model(tmp_path_factory.mktemp("big"), dim=256, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=1024,
                      n_layers=8, max_positions=8192)


@pytest.fixture(scope="session")
def slow(tmp_path_factory):
    """So large that there is time to interrupt an answer, in the sanitizer build not too much of it."""
    return make_model(tmp_path_factory.mktemp("slow"), dim=128, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=512,
                      n_layers=4, max_positions=8192)


def ppm(width, height, seed=1):
    """A binary PPM with something to see."""
    pixels = bytes((x * seed + y * 7 + c * 50) % 256 for y in range(height) for x in range(width) for c in range(3))
    return b"P6 %d %d 255\n" % (width, height) + pixels


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A square picture: 4 x 4 tiles and the whole view of the tiny model, 68 image tokens."""
    path = tmp_path_factory.mktemp("pictures") / "square.ppm"
    path.write_bytes(ppm(60, 60))
    return path
