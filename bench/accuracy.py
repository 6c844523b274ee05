"""What 8 and 4 bits cost the demonstration model on its own tasks, by this engine: whole answers right, of pictures it never saw.

    python export/export.py models/demo -o q8.smol --type q8           and q4, also with --calibrate models/demo/pictures
    python bench/accuracy.py models/demo/demo.smol q8.smol q4.smol --pictures 500 --mnist FOLDER

All files are asked the same questions, drawn as the training's test pictures are (export/train_demo.py), so that their
difference is far better known than each figure: "won" and "lost" count the answers that are right where the first file's
are wrong, and the other way round. FOLDER holds MNIST's test files; without it handwriting is scikit-learn's alone.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.append(os.path.join(ROOT, "export"))

from demo_pictures import GRIDS, TASKS, draw  # noqa: E402

SEED = 31


def questions(task, n, mnist):
    """n times a picture, the question and its answer."""
    rng = random.Random(f"{SEED} {task}")
    while n > 0:
        picture, _, asked = draw(rng, task, rng.choice(GRIDS[:2] if task in TASKS[:3] else GRIDS), "test", 1.0, mnist)
        if asked[0][0] == task:  # a picture may have no question of the wanted kind
            n -= 1
            yield picture, asked[0][1], asked[0][2]


def answer(model, path, question):
    done = subprocess.run([os.path.join(ROOT, "run"), model, "-i", path, "-j", "1", "--", question], capture_output=True,
                          text=True, check=True)
    return done.stdout.strip()


def ask_all(models, task, options, folder):
    """For each model, whether it was right, question after question."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = []
        for i, (picture, question, truth) in enumerate(questions(task, options.pictures, options.mnist)):
            path = os.path.join(folder, f"{task.replace('/', ' ')} {i}.png")
            picture.save(path)
            right.append([pool.submit(lambda *a, t=truth: answer(*a) == t, m, path, question) for m in models])
        return [[f.result() for f in column] for column in zip(*tqdm(right, desc=task, disable=None, leave=False))]


def line(task, right):
    n = len(right[0])
    cells = [f"{100 * sum(right[0]) / n:.2f} %"]
    for column in right[1:]:
        won = sum(b > a for a, b in zip(right[0], column))
        lost = sum(b < a for a, b in zip(right[0], column))
        cells.append(f"{100 * sum(column) / n:.2f} % (won {won}, lost {lost})")
    print("| " + " | ".join([task, str(n), *cells]) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FILE.smol")
    parser.add_argument("--pictures", type=int, default=200, help="a task (200)")
    parser.add_argument("--mnist", help="folder with MNIST's test files")
    options = parser.parse_args()
    names = [os.path.splitext(os.path.basename(m))[0] for m in options.models]
    print("| " + " | ".join(["task", "asked", *names]) + " |\n" + "| --- " * (len(names) + 2) + "|")
    total = [[] for _ in names]
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            right = ask_all(options.models, task, options, folder)
            line(task, right)
            for column, more in zip(total, right):
                column += more
    line("all", total)


if __name__ == "__main__":
    main()
