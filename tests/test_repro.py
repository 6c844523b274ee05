"""export.py gives the same bytes wherever and whenever it runs: another folder to work in and to write to, other hashes of
strings in Python, other numbers of threads, another time zone and language."""

import hashlib
import os
import subprocess
import sys

import pytest

from conftest import ROOT

DEMO = os.path.join(ROOT, "models", "demo")


def export(cwd, out, kind, **environment):
    command = [sys.executable, os.path.join(ROOT, "export", "export.py"), os.path.relpath(DEMO, cwd), "-o", out, "--type", kind, "--quiet"]
    subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=True)
    with open(os.path.join(cwd, out), "rb") as f:
        return f.read()


@pytest.mark.parametrize("kind", ["f32", "q8", "q4"])
def test_two_exports_are_equal(tmp_path, kind):
    one = export(ROOT, tmp_path / "one.smol", kind, PYTHONHASHSEED="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    (tmp_path / "elsewhere").mkdir()
    two = export(tmp_path / "elsewhere", "two", kind, PYTHONHASHSEED="4242", OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="3",
                 TZ="Asia/Tokyo", LC_ALL="C.UTF-8")
    assert one == two
    if kind == "f32":
        with open(os.path.join(DEMO, "demo.smol"), "rb") as f:
            same = hashlib.sha256(one).digest() == hashlib.sha256(f.read()).digest()
        assert same, "models/demo changed, its README.md included: export models/demo -o models/demo/demo.smol once more"
