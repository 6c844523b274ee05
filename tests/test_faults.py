"""A machine that fails: each call for memory, each system call and each moment for Ctrl-C in turn. Either the program does
not mind and says what it always says, or it ends with one line and status 1; no file is half written under its name, no
temporary one is left.

The calls are counted, not timed: nothing here depends on how fast the machine is.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import namedtuple

import pytest

from conftest import ROOT, ppm

TESTS = os.path.join(ROOT, "tests")
MODEL = os.path.join(TESTS, "golden", "tiny.smol")
LINE = rb"(smol|\nlibgomp): [^\n]+\n"  # the second for memory that OpenMP itself wants

Done = namedtuple("Done", "status out err files")


@pytest.fixture(scope="module")
def material(plain, tmp_path_factory):
    """What the commands read: by name."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "small.ppm").write_bytes(ppm(50, 20))
    (folder / "text").write_text("one word after another " * 3)
    (folder / "video").mkdir()
    for i in range(3):
        (folder / "video" / f"{i}.ppm").write_bytes(ppm(20, 20, i))
    (folder / "video.ppm").write_bytes(b"".join(ppm(20, 20, i) for i in range(3)))
    asked = [plain.path, MODEL, "hi", "-n", "2", "--record", folder / "record"]
    subprocess.run([str(a) for a in asked], check=True, capture_output=True)
    return {"M": MODEL, **{p.name: p for p in folder.iterdir()}}


# Options, and what comes from standard input. Words that name a material stand for its path.
COMMANDS = {
    "answer": ("M hi -i small.ppm -n 2", b""),
    "json": ("M hi -i - -n 2 --json -V", ppm(50, 20)),
    "trace": ("M hi -i small.ppm -n 2 --trace t", b""),
    "tiles": ("M hi -i small.ppm -n 2 --dump-tiles d", b""),
    "chat": ("M -n 2", b"hi\n/image small.ppm\nWhat?\n"),
    "folder": ("M hi -v video -n 2 --fps 1", b""),
    "stream": ("M hi -v video.ppm -n 2 --fps 1", b""),
    "pipe": ("M hi -v - -n 2 --fps 1", b"".join(ppm(20, 20, i) for i in range(3))),
    "score": ("M --score text -c 8", b""),
    "verify": ("M --verify", b""),
    "info": ("M --info", b""),
    "plan": ("M hi -i small.ppm --plan", b""),
    "record": ("M hi -i small.ppm -n 2 --record r", b""),
    "replay": ("M --replay record", b""),
    "choices": ("M hi --choices yes,no", b""),
}


def files_of(folder):
    """Path to bytes of all that lies in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Machine:
    """Runs a command in a folder of its own, under a wrapper that makes something fail."""

    def __init__(self, program, material, folder, name):
        words, stdin = COMMANDS[name]
        self.name, self.folder = name, folder / "out"
        self.command = program.command([material.get(word, word) for word in words.split()])
        self.stdin = stdin.replace(b"small.ppm", os.fsencode(material["small.ppm"]))
        self.env = {**program.env, "TMPDIR": str(folder)}
        self.good = self.run()
        assert (self.good.status, self.good.err) == (0, self.good.err if name in ("chat", "json") else b"")

    def run(self, *wrapper, **env):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        done = subprocess.run([*wrapper, *self.command], input=self.stdin, capture_output=True, timeout=60, cwd=self.folder,
                              env={**self.env, **env})
        return Done(done.returncode, done.stdout, done.stderr, files_of(self.folder))

    def says_the_same(self, done):
        volatile = rb'"(timings|memory)":\{[^}]*\}'  # of --json
        return re.sub(volatile, b"", done.out) == re.sub(volatile, b"", self.good.out)

    def check(self, done, fault):
        """The result of a run in which something failed."""
        for path, content in done.files.items():
            assert content == self.good.files.get(path), (fault, path, done)
        if done.status == 0:
            assert self.says_the_same(done) and done.files.keys() >= self.good.files.keys(), (fault, done)
        elif self.name == "chat":  # goes on after what concerns one question
            assert done.status == 1 and re.search(LINE, done.err), (fault, done)
        else:
            assert done.status == 1 and re.fullmatch(LINE, done.err), (fault, done)


@pytest.fixture(params=COMMANDS)
def machine(request, plain, material, tmp_path):
    return Machine(plain, material, tmp_path, request.param)


# ---- memory ----

@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "faults.so"
    built = subprocess.run(["cc", "-shared", "-fPIC", "-O1", os.path.join(TESTS, "faults.c"), "-o", path, "-ldl"])
    if built.returncode:
        pytest.skip("tests/faults.c is for Linux with glibc")
    return str(path)


def test_each_call_for_memory_fails_in_turn(machine, library, tmp_path):
    hit, n = tmp_path / "hit", 0
    while True:
        n += 1
        done = machine.run(LD_PRELOAD=library, FAULT_AT=str(n), FAULT_HIT=str(hit))
        machine.check(done, f"memory, call {n}")
        if not hit.exists():
            break
        hit.unlink()
    assert n > 1 and done.status == 0  # the last had no fault


# ---- system calls ----

ERRORS = {"openat": "EMFILE", "read": "EIO", "write": "ENOSPC", "lseek": "EIO", "mmap": "ENODEV", "close": "EIO",
          "rename": "EACCES", "mkdir": "EACCES", "newfstatat": "EIO", "getdents64": "EIO", "fcntl": "EIO", "ftruncate": "EIO"}


@pytest.fixture(scope="module")
def strace():
    """strace fails a call or sends a signal at it, where it is installed and may."""
    path = shutil.which("strace")
    probe = [path, "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"]
    if not path or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("strace is not here, or may not trace")
    return path


def calls(machine, strace):
    """[(system call, its number among those of its name, its line)] from where the program has prepared for Ctrl-C."""
    log = machine.folder.parent / "log"
    machine.check(machine.run(strace, "-o", log), "strace")
    found, numbers, begun = [], {}, False
    for line in log.read_text(errors="replace").splitlines():
        if not re.match(r"\w+\(", line):
            continue  # how it ended
        name = line.split("(")[0]
        numbers[name] = numbers.get(name, 0) + 1
        if begun:
            found.append((name, numbers[name], line))
        begun = begun or line.startswith("rt_sigaction(SIGXFSZ")
    return found


def inject(machine, strace, what, n):
    return machine.run(strace, "-o", "/dev/null", "-e", f"trace={what.split(':')[0]}", "-e", f"inject={what}:when={n}")


def test_each_system_call_fails_in_turn(machine, strace):
    found = [call for call in calls(machine, strace) if call[0] in ERRORS]
    assert len(found) > 3
    for name, n, line in found:
        done = inject(machine, strace, f"{name}:error={ERRORS[name]}", n)
        if name == "write" and line.startswith("write(2, "):
            continue  # nobody hears
        machine.check(done, line)


# ---- Ctrl-C ----

def is_safetensors(content):
    """Whether a trace is complete: its header's last tensor ends with the file."""
    n = struct.unpack_from("<Q", content)[0]
    ends = [t["data_offsets"][1] for t in json.loads(content[8:8 + n]).values()]
    return 8 + n + max(ends, default=0) == len(content)


def test_ctrl_c_at_each_system_call(machine, strace):
    """Status 130 and what there was of an answer, or it came too late to matter; what is written is whole."""
    n_ended = 0
    for i, (name, n, line) in enumerate(calls(machine, strace)):
        if name == "exit_group" or name == "futex" and i % 16:
            continue
        done = inject(machine, strace, f"{name}:signal=SIGINT", n)
        assert done.status == 130 or done.status == 0 and (machine.name == "chat" or machine.says_the_same(done)), (line, done)
        for path, content in done.files.items():
            assert content == machine.good.files.get(path) or path == "t" and is_safetensors(content), (line, path)
        assert not done.err or machine.name in ("chat", "json"), (line, done)
        n_ended += done.status == 130
    assert n_ended > 3


# ---- a disk that is full ----

# Mounts a file system of 64 KiB that nobody else sees, fills it, works in it, and lists its files.
SMALL_DISK = """mount -t tmpfs -o size=64k smol "$0" && cd "$0" || exit 77
cat /dev/zero > filler 2> /dev/null
"$@"
status=$?
find . -type f >&2
exit $status"""


@pytest.mark.parametrize("name", ["trace", "tiles", "record", "export", "save"])
def test_full_disk(plain, material, tmp_path, name):
    """One line, and what has no room is not there, neither whole nor half."""
    if name == "export":
        command = [sys.executable, os.path.join(ROOT, "export", "export.py"), os.path.join(ROOT, "models", "demo"), "-o", "new"]
    else:
        words = "M -n 2" if name == "save" else COMMANDS[name][0]
        command = plain.command([material.get(word, word) for word in words.split()])
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run([*unshare, "sh", "-c", SMALL_DISK, disk, *command], env=plain.env, capture_output=True, text=True,
                          input="hi\n/save new\n" if name == "save" else "")
    if done.returncode == 77 or done.stderr.startswith("unshare: "):
        pytest.skip("no file systems may be mounted here")
    assert done.returncode == 1, done
    assert re.fullmatch(r"(smol|export): [^\n]*No space left on device\n\./filler\n", done.stderr), done
