"""export.py gives the same bytes wherever and whenever it runs: another folder to work in and to write to, other hashes of
strings in Python, other numbers of threads, another time zone and language."""

import hashlib
import json
import os
import re
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


@pytest.mark.parametrize("kind", ["f32", "q8", "q4"])
def test_info_says_where_a_model_came_from(plain, tmp_path, kind):
    """Source, exporter, the SHA-256 of every file that was read, the type of weights, and the digest that records name."""
    export(ROOT, tmp_path / "m.smol", kind)
    info = plain.good(tmp_path / "m.smol", "--info").decode()
    provenance = json.loads(info[info.index("\n{\n"):info.index("\n}\n") + 2])
    assert {k: provenance[k] for k in ("source", "exporter", "revision", "license")} == {
        "source": "demo", "exporter": "smol.c export 0.1", "revision": None, "license": None}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(provenance["files"])
    for name, digest in provenance["files"].items():
        with open(os.path.join(DEMO, name), "rb") as f:
            assert hashlib.sha256(f.read()).hexdigest() == digest, name
    known_by = re.search(f"weights {kind}, model sha256 ([0-9a-f]{{64}})\n", info).group(1)
    assert json.loads(plain.good(tmp_path / "m.smol", "hi", "-n", 1, "--json"))["model_sha256"] == known_by
