"""What the parity and bits tests share: building the program, making model files, asking the engine."""

import json
import os
import subprocess
import sys

from PIL import Image

import tiny_model
from configs import N_NEW, picture

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
GOLDEN = os.path.join(HERE, "golden")
# Threads that spin while another process has their processor would wait long.
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}


def call(*command, stdin=""):
    """Runs a command in the repository's root and returns its standard output."""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=ENVIRONMENT, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def build():
    call("make", "build/run")
    return os.path.join(ROOT, "build", "run")


def make_files(config, folder):
    """The Hugging Face folder of a configuration, its model file and its pictures: returns the latter two's paths."""
    source = tiny_model.make_folder(os.path.join(folder, config.name), **config.model)
    model = export(source, os.path.join(folder, config.name + ".smol"))
    return source, model, save_pictures(config, folder)


def export(source, out):
    call(sys.executable, "export/export.py", source, "-o", out, "--quiet")
    return out


def save_pictures(config, folder):
    """As PNG and PPM in turn: both are exact."""
    paths = []
    for i, (width, height) in enumerate(config.pictures):
        path = os.path.join(folder, f"{config.name}_{i}.{'ppm' if i % 2 else 'png'}")
        Image.fromarray(picture(width, height)).save(path)
        paths.append(path)
    return paths


def ask(run, model, config, pictures, *options, n_new=N_NEW):
    """The engine's answer as the object that --json prints."""
    command = [run, model, "--json", "-n", n_new, *options]
    for path in pictures:
        command += ["-i", path]
    if config.system is not None:
        command += ["-s", config.system]
    if not config.tiling:
        command += ["--no-tiling"]
    return json.loads(call(*command, "--", config.text))


def chat(run, model, pictures, questions, *options):
    """The answers of a chat whose first question has the pictures."""
    command = [run, model, "--json", "-n", N_NEW, *options]
    for path in pictures:
        command += ["-i", path]
    lines = call(*command, stdin="\n".join(questions) + "\n").splitlines()
    return [json.loads(line) for line in lines]
