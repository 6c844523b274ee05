"""The same bits: gcc and clang, -O0, -O3 and tuned for this machine, each kernel, 1, 2 and 5 threads give the same logits to
the last bit.

The measure is --json's logits_sha256, over the logits of every step of an answer. Programs are built by the Makefile's
own command, elsewhere. Without clang that half is skipped, and says so; a compiler without OpenMP makes a program of one
thread, and the table says that.
"""

import glob
import os
import shutil

import pytest

from configs import CONFIGS, LONG, Config
from harness import ROOT, ask, call, make_files

COMPILERS = ("gcc", "clang")
LEVELS = ("-O0", "-O3", "-O3 -march=native")
THREADS = (1, 2, 5)
N_NEW = 24

# The others' products are too small for threads (quant.c); these of one layer are not, nor is the attention.
WIDE = Config("wide", dict(
    image_size=64, patch_size=4, scale_factor=4, v_dim=224, v_heads=7, v_layers=1, v_hidden_dim=500, dim=240, n_heads=8,
    n_kv_heads=4, head_dim=32, hidden_dim=420, n_layers=1, longest_edge=64, seed=3), [(60, 50)], LONG[:270])

MODELS = [c for c in CONFIGS if c.name in ("tiles17", "patch14", "two", "words")] + [WIDE]
ROWS = []  # (program, kernel, threads, model, digest)


def build(compiler, level, folder):
    """The program, built by the Makefile in a folder of its own, and whether it has threads."""
    said = call("make", f"BUILD={folder}", f"CC={compiler}", f"CFLAGS={level}", f"{folder}/run")
    return os.path.join(folder, "run"), "-fopenmp" in said


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """[(what, path, numbers of threads)] of every compiler that is there at every level."""
    folder, built = tmp_path_factory.mktemp("programs"), []
    for compiler in COMPILERS:
        if not shutil.which(compiler):
            continue
        for level in LEVELS:
            name = (compiler + level).replace(" ", "").replace("=", "-")  # with a = make would take it for a variable
            path, threaded = build(compiler, level, os.path.join(folder, name))
            what = f"{compiler} {level}" + ("" if threaded else " without OpenMP")
            built.append((what, path, THREADS if threaded else THREADS[:1]))
    return built


@pytest.fixture(scope="module")
def kernels(programs):
    return call(programs[0][1], "--kernels").split()


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Prints a line for each program, kernel and number of threads: the digests' first digits, model by model."""
    yield
    names = list(dict.fromkeys(row[3] for row in ROWS))
    lines = {}
    for program, kernel, threads, model, digest in ROWS:
        lines.setdefault((program, kernel, str(threads)), {})[model] = digest[:8]
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n")
        for cells in [["program", "kernel", "threads"] + names, ["---"] * (3 + len(names))]:
            print("| " + " | ".join(cells) + " |")
        for key, digests in lines.items():
            print("| " + " | ".join([*key, *(digests.get(name, "") for name in names)]) + " |")


def check_model(config, model, pictures, programs, kernels):
    """Every program, kernel and number of threads; all differences are named at once."""
    found = {}
    for what, path, numbers in programs:
        for kernel in kernels:
            for threads in numbers:
                answer = ask(path, model, config, pictures, "--kernel", kernel, "-j", threads, n_new=N_NEW)
                assert answer["kernel"] == kernel and answer["threads"] == threads
                ROWS.append((what, kernel, threads, config.name, answer["logits_sha256"]))
                found[what, kernel, threads] = answer["logits_sha256"]
    first = next(iter(found.values()))
    assert [key for key, digest in found.items() if digest != first] == []


def test_demo(programs, kernels):
    model = os.path.join(ROOT, "models", "demo", "demo.smol")
    pictures = sorted(glob.glob(os.path.join(ROOT, "models", "demo", "pictures", "*.png")))
    if not os.path.exists(model) or not pictures:
        pytest.skip("models/demo/demo.smol or its pictures are not there")
    check_model(Config("demo", {}, [], "What is in this picture?"), model, pictures[:1], programs, kernels)


@pytest.mark.parametrize("config", MODELS, ids=lambda c: c.name)
def test_same_bits(config, programs, kernels, tmp_path):
    _, model, pictures = make_files(config, tmp_path)
    check_model(config, model, pictures, programs, kernels)


def test_all_compilers(programs):
    """Nothing is left out without a word."""
    missing = [c for c in COMPILERS if not any(what.startswith(c) for what, *_ in programs)]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


def test_bits_of_another_prompt_differ(programs, tmp_path):
    """The digest does depend on the numbers."""
    config = MODELS[0]
    _, model, pictures = make_files(config, tmp_path)
    other = Config("other", config.model, config.pictures, config.text + " Now?")
    digests = [ask(programs[0][1], model, c, pictures, n_new=N_NEW)["logits_sha256"] for c in (config, other)]
    assert digests[0] != digests[1]
