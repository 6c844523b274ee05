"""The software bill of materials: valid CycloneDX, the same each time, and its list is what is really there."""

import ast
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from conftest import ROOT

# What a C program may need here: libc, libm, and OpenMP of gcc or clang.
C_LIBRARIES = {"libc.so.6", "libm.so.6", "libgomp.so.1", "libomp.so.5"}


@pytest.fixture(scope="module")
def text(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    subprocess.run([sys.executable, "tests/sbom.py", path], cwd=ROOT, check=True)
    return path.read_text()


@pytest.fixture(scope="module")
def bom(text):
    return json.loads(text)


def used_by(bom, *users):
    """{package: version} of those that these are the users of."""
    return {canonicalize_name(c["name"]): c["version"] for c in bom["components"] if c.get("purl") and c["properties"][0]["value"] in users}


def test_valid(text, bom):
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    for change in ({"bomFormat": "other"}, {"unknown": 1}, {"components": [{"type": "library"}]}):
        assert validator.validate_str(json.dumps(bom | change)) is not None


def test_the_same_each_time(text, tmp_path):
    subprocess.run([sys.executable, "tests/sbom.py", tmp_path / "again"], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "again").read_text() == text


def test_the_program_and_the_model(plain, bom):
    main, model = bom["metadata"]["component"], next(c for c in bom["components"] if c["type"] == "machine-learning-model")
    for component, path in (main, "build/run"), (model, model["name"]):
        with open(os.path.join(ROOT, path), "rb") as f:
            assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(f.read()).hexdigest()}]
    assert main["properties"][0]["value"] in plain.good("--version").decode()
    assert model["properties"][0]["value"] in plain.good(model["name"], "--info", cwd=ROOT).decode()


def test_c_libraries(bom):
    """Those that the dynamic linker loads are libc, libm, OpenMP and the linker itself, and the bill has them."""
    listed = {c["name"] for c in bom["components"] if c["type"] == "library" and not c.get("purl")}
    loaded = subprocess.run(["ldd", os.path.join(ROOT, "build", "run")], capture_output=True, text=True, check=True).stdout
    loaded = {os.path.basename(line.split()[0]) for line in loaded.splitlines()}
    assert listed == {name for name in loaded if not re.match("ld-linux|linux-vdso", name)}
    assert {"libc.so.6", "libm.so.6"} <= listed <= C_LIBRARIES


def test_pins(bom):
    """Every pinned line of the requirements files, read in the plainest way, and what is installed is what is pinned."""
    lines = {}
    for path in ("export/requirements.txt", "requirements.txt", "bench/requirements.txt", "export/smollm2.txt"):
        with open(os.path.join(ROOT, path)) as f:
            lines |= {canonicalize_name(n): v for n, v in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", f.read(), re.M)}
    assert used_by(bom, "exporter", "tests", "benchmarks", "make chat") == lines and len(lines) > 15
    frozen = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    installed = {canonicalize_name(n): v.split("+")[0] for n, v in re.findall(r"^([\w.-]+)==(\S+)", frozen, re.M)}
    wanted = used_by(bom, "exporter", "tests")
    assert {n: installed.get(n) for n in wanted} == wanted


def third_party(folder):
    """The packages that a folder's files import, by the names on PyPI."""
    files = glob.glob(os.path.join(ROOT, folder, "*.py"))
    own = {os.path.splitext(os.path.basename(f))[0] for f in glob.glob(os.path.join(ROOT, "*", "*.py"))}
    modules = set()
    for path in files:
        with open(path) as f:
            for node in ast.walk(ast.parse(f.read())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                        [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                modules |= {name.split(".")[0] for name in names}
    known = packages_distributions()
    return {canonicalize_name(known.get(m, [m])[0]) for m in modules - own - set(sys.stdlib_module_names)}


# Not pinned themselves. packaging, packageurl-python and mpmath come with pinned ones that need them; scikit-learn has handwritten
# digits to train the demonstration model on. The names of modules, too, of which PyPI's name is only known where they are installed.
OTHERS = {"packaging", "packageurl-python", "mpmath", "scikit-learn", "sklearn", "llama-cpp"}


@pytest.mark.parametrize("folder, users", [("export", ("exporter", "tests")), ("tests", ("exporter", "tests")),
                                           ("bench", ("exporter", "tests", "benchmarks"))])
def test_nothing_else_is_imported(bom, folder, users):
    found = third_party(folder)
    assert "numpy" in found and found - OTHERS <= set(used_by(bom, *users))
