"""The same bits everywhere: one SHA-256 over all logits from every processor, compiler, level, kernel, number of threads and
division of the prompt.

Programs of tests/logits.c are built by the Makefile for this machine and, where a cross compiler and qemu-user are there, for
others. Each computes all logits of a prompt with a picture and of an answer, in f32, q8 and q4. A cell of the table has
the first digits that all runs of its kernel agree on; all cells of a column must be equal. What is missing here is said.

As a program: python tests/identical.py        status 1 if any two differ
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import tiny_model
from configs import CONFIGS, LONG, Config
from harness import ENVIRONMENT, ROOT, call, save_pictures

TYPES = ("f32", "q8", "q4")
KV = "q8 kv-int8"  # a fourth column of the model that runs everywhere
THREADS = (1, 2, 3, 8)
PIECES = ("0", "3,1,17,2,16,5,31", "1")  # the prompt at once, in uneven calls, token by token
N_NEW = 6

ALL = list(itertools.product(THREADS, PIECES))
FEW = [(1, "0"), (2, PIECES[1]), (3, "1"), (8, "0")]  # where it takes long

# Name: compiler, flags, what runs the program, what else must be there.
PROGRAMS = {f"{c} {level}": (c, level, "", "") for c in ("gcc", "clang") for level in ("-O0", "-O3", "-O3 -march=native")}
PROGRAMS |= {
    "aarch64 gcc -O0": ("aarch64-linux-gnu-gcc", "-O0 -static", "qemu-aarch64 -cpu max", ""),
    "aarch64 gcc -O3": ("aarch64-linux-gnu-gcc", "-O3 -static", "qemu-aarch64 -cpu max", ""),
    "aarch64 clang -O3": ("clang --target=aarch64-linux-gnu", "-O3 -static", "qemu-aarch64 -cpu max", "aarch64-linux-gnu-gcc"),
    "riscv64 gcc -O0": ("riscv64-linux-gnu-gcc", "-O0 -static", "qemu-riscv64", ""),
    "riscv64 gcc -O3": ("riscv64-linux-gnu-gcc", "-O3 -static", "qemu-riscv64", ""),
    "arm gcc -O0": ("arm-linux-gnueabihf-gcc", "-O0 -static", "qemu-arm", ""),
    "arm gcc -O3": ("arm-linux-gnueabihf-gcc", "-O3 -static", "qemu-arm", ""),
}

# The others' products are too small for threads (quant.c); these of one layer are not, nor is the attention.
WIDE = Config("wide", dict(
    image_size=64, patch_size=4, scale_factor=4, v_dim=224, v_heads=7, v_layers=1, v_hidden_dim=500, dim=240, n_heads=8,
    n_kv_heads=4, head_dim=32, hidden_dim=420, n_layers=1, longest_edge=64, seed=3), [(60, 50)], LONG[:270])
DEMO = Config("demo", None, None, "Read the meter.", None, False)
MODELS = [DEMO, WIDE] + [c._replace(pictures=c.pictures[:1]) for c in CONFIGS if c.name in ("patch14", "two", "words")]
LIGHT = "two"  # for slow programs, which have the demonstration model, too, unless they are slower still

DEMO_FOLDER = os.path.join(ROOT, "models", "demo")


def make_model(config, folder):
    """[(column, model file, picture, whether it is split, whether keys and values are int8, ids)] for each type."""
    if config is DEMO:
        source, picture = DEMO_FOLDER, os.path.join(DEMO_FOLDER, "pictures", "06_display.png")
    else:
        source = tiny_model.make_folder(os.path.join(folder, config.name), **config.model)
        picture = save_pictures(config, folder)[0]
    made = []
    for kind in TYPES:
        model = os.path.join(folder, f"{config.name}-{kind}.smol")
        call(sys.executable, "export/export.py", source, "-o", model, "--type", kind, "--quiet")
        options = ["-i", picture] + ([] if config.tiling else ["--no-tiling"])
        ids = call(os.path.join(ROOT, "build", "run"), model, *options, "--tokenize", "--", config.text)
        made.append((f"{config.name} {kind}", model, picture, int(config.tiling), 0, ids))
        if config.name == LIGHT and KV.startswith(kind):
            made.append((f"{config.name} {KV}", model, picture, int(config.tiling), 1, ids))
    return made


def build(name, compiler, flags, folder):
    """The program, and whether it has threads."""
    place = os.path.join(folder, "".join(c if c.isalnum() else "_" for c in name))
    said = call("make", f"-j{os.cpu_count()}", f"BUILD={place}", f"CC={compiler}", f"CFLAGS={flags}", f"{place}/logits")
    return os.path.join(place, "logits"), "-fopenmp" in said


def run(command, model, variants):
    """{(kernel, threads, pieces): digest}"""
    _, path, picture, split, kv_int8, ids = model
    command = [*command, path, picture, str(split), str(kv_int8), str(N_NEW), *(f"{k}/{t}/{p}" for k, t, p in variants)]
    done = subprocess.run(command, env=ENVIRONMENT, input=ids, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return {tuple(line.split()[0].split("/")): line.split()[1] for line in done.stdout.splitlines()}


def missing(compiler, runner, needs):
    return [tool for tool in (compiler.split()[0], runner.split(" ")[0], needs) if tool and not shutil.which(tool)]


def variants_of(column, kernels, flags, runner, threaded):
    """What a program runs of a model: less where it takes long, nothing where it takes too long."""
    name, slow = column.split()[0], bool(runner) or "-O0" in flags
    if slow and name != LIGHT and (name != "demo" or "-O0" in flags):
        return []
    if not threaded:
        combinations = [(1, pieces) for pieces in PIECES]
    else:
        combinations = FEW if slow else ALL
    if slow and name == "demo":
        combinations = combinations[1:2]
    return [(kernel, *c) for kernel in kernels for c in combinations]


def start(name, models, folder, workers):
    """Builds a program and starts its runs: (name, [(kernel, {column: future})], remark)."""
    compiler, flags, runner, needs = PROGRAMS[name]
    absent = missing(compiler, runner, needs)
    if absent:
        return name, [("", {})], f"not here: {', '.join(absent)}"
    program, threaded = build(name, compiler, flags, folder)
    command = [*runner.split(), program]
    rows = []
    for kernel in call(*command).split():
        jobs = {}
        for model in models:
            variants = variants_of(model[0], [kernel], flags, runner, threaded)
            if variants:
                jobs[model[0]] = workers.submit(run, command, model, variants)
        rows.append((kernel, jobs))
    return name, rows, "" if threaded else "no OpenMP: one thread"


def cell(digests):
    """What all runs agree on."""
    return digests[0][:8] if len(set(digests)) == 1 else "DIFFER"


def show(programs, columns):
    """Prints the table; returns the digests of each column, and how many runs there were."""
    found, n_runs = {column: set() for column in columns}, 0
    for line in (["program", "kernel", *columns, "runs", ""], ["---"] * (len(columns) + 4)):
        print("| " + " | ".join(line) + " |")
    for name, rows, remark in programs:
        for kernel, jobs in rows:
            digests = {column: list(job.result().values()) for column, job in jobs.items()}
            n = sum(map(len, digests.values()))
            n_runs += n
            for column, values in digests.items():
                found[column].update(values)
            cells = [cell(digests[c]) if c in digests else "" for c in columns]
            print("| " + " | ".join([name, kernel, *cells, str(n), remark]) + " |", flush=True)
    return found, n_runs


def main():
    call("make", "build/run")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as workers:
        models = [made for config in MODELS for made in make_model(config, folder)]
        programs = [start(name, models, folder, workers) for name in PROGRAMS]
        found, n_runs = show(programs, [model[0] for model in models])
    differ = [column for column, digests in found.items() if len(digests) > 1]
    print(f"{n_runs} runs of {len(found)} models: " + (f"{', '.join(differ)} differ" if differ else "each column is equal"))
    if len(set().union(*found.values())) < len(found):
        sys.exit("two models have the same digest, or one has none: nothing was compared")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
