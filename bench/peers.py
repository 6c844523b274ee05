#!/usr/bin/env python3
"""This engine beside llama.cpp, torch and OpenVINO: same shapes, random weights, same machine, interleaved runs.

    build/peers/bin/python bench/peers.py                           all of it
    build/peers/bin/python bench/peers.py vision decode -m 256M     a part

Every peer works in a process of its own, which waits while others run: ours, peer, ours, peer ... Each round gives both a
figure; a line shows the medians and their ratio, above 1 where this engine is ahead, beside the ratio aimed at.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "build", "bench")

# figure: its name in bench.c. ours, theirs: types of weights. module, work: peer_*.py
# and its function. higher: a rate, not a time. targets: ratios aimed at, for each model that is measured
Case = namedtuple("Case", "figure unit ours peer module work theirs higher targets")

CASES = [
    Case("vision", "ms", "q8", "OpenVINO W8A8", "openvino", "vision", "w8a8", False, {"256M": 1.3, "2.2B": 1.3}),
    Case("vision", "ms", "q8", "torch int8", "torch", "vision", "int8", False, {"256M": 2, "2.2B": 2}),
    Case("vision", "ms", "q8", "llama.cpp Q8_0", "llama", "vision", "q8", False, {"256M": 5, "2.2B": 5}),
    Case("prefill 512", "1/s", "q8", "llama.cpp Q8_0", "llama", "prefill", "q8", True, {"256M": 3, "500M": 3, "2.2B": 3}),
    Case("prefill 512", "1/s", "q4", "llama.cpp Q4_0", "llama", "prefill", "q4", True,
         {"256M": 3, "500M": 3, "2.2B": 3, "22B": 3}),
    Case("decode", "1/s", "q8", "llama.cpp Q8_0", "llama", "generate", "q8", True, {"256M": 1.8, "500M": 1.8, "2.2B": 2}),
    Case("decode", "1/s", "q4", "llama.cpp Q4_0", "llama", "generate", "q4", True,
         {"256M": 1.8, "500M": 1.8, "2.2B": 2, "22B": 1.8}),
    Case("first word", "ms", "q8", "llama.cpp Q8_0", "llama", "question", "q8", False, {"256M": 4}),
    Case("first word", "ms", "q4", "llama.cpp Q4_0", "llama", "question", "q4", False, {"2.2B": 4}),
]
MEMORY_TARGET = 1 / 0.65  # of a question
LARGE = {"22B"}  # memory holds ours or theirs, not both: a process for each round, which reads its file in first


# ---- the peer's process ----

def status(key):
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))


def work(module, function, model, kind, threads):
    """One figure for each line read; with it, for questions, the peak memory beyond what Python and the libraries take."""
    sys.stdout, answers = sys.stderr, sys.stdout
    run = getattr(importlib.import_module("peer_" + module), function)(model, kind, threads, FOLDER)
    before = status("VmRSS")
    if function != "question":
        run()  # reads the weights in
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        print(run(), status("VmHWM") - before, file=answers, flush=True)


class Peer:
    def __init__(self, case, model, args):
        command = [sys.executable, os.path.abspath(__file__), "--work", case.module, case.work, model, case.theirs]
        self.case = case
        self.process = subprocess.Popen(command + [str(args.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=None if args.verbose else subprocess.DEVNULL)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.case.peer} ended; -v shows why")
        return line.split()

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        figure, memory = self.read()
        return float(figure), int(memory)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- ours ----

def ours(case, model, args):
    """The same from bench.c: the figure, and the peak memory of a question."""
    command = [os.path.join(FOLDER, "bench"), "-t", str(args.threads), "-r", "1", "-o", case.figure]
    command.append(os.path.join(FOLDER, f"{model}-{case.ours}.smol"))
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = dict(line.split("\t")[:2] for line in out.stdout.splitlines())
    return float(figures[case.figure]), int(figures.get("peak memory", 0))


# ---- the table ----

def compare(case, model, args):
    """Medians of both, and the peak memory of both."""
    fresh = case.work == "question" or model in LARGE
    rounds, peer = [], None
    for _ in range(args.rounds):
        mine = ours(case, model, args)
        peer = peer or Peer(case, model, args)
        rounds.append((mine, peer.run()))
        if fresh:
            peer = peer.close()
    if peer:
        peer.close()
    return [statistics.median(r[who][what] for r in rounds) for what in (0, 1) for who in (0, 1)]


def show(name, model, case, mine, other, ratio, target):
    print(f"{name:<20} {model:<5} {case.ours:<4} {mine:>9.4g}   {case.peer:<15} {other:>9.4g}   {ratio:>6.2f}"
          f"   {f'{target:.2f}' if target else '':>6}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="vision, prefill, decode, first (all)")
    parser.add_argument("-m", "--models", nargs="+", default=["256M", "500M", "2.2B"])
    parser.add_argument("-p", "--peers", nargs="+", default=["llama.cpp", "torch", "OpenVINO"])
    parser.add_argument("-y", "--types", nargs="+", default=["q8", "q4"])
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the peers say")
    args = parser.parse_args()
    print(f"{'figure':<20} {'model':<5} {'ours':<4} {'':>9}   {'peer':<15} {'':>9}   {'ratio':>6}   {'target':>6}")
    for case in CASES:
        for model in args.models:
            if (args.figures and case.figure.split()[0] not in args.figures) or model not in case.targets:
                continue
            if case.peer.split()[0] not in args.peers or case.ours not in args.types:
                continue
            mine, other, my_bytes, other_bytes = compare(case, model, args)
            ratio = mine / other if case.higher else other / mine
            show(f"{case.figure}, {case.unit}", model, case, mine, other, ratio, case.targets[model])
            if case.work == "question":
                show("peak memory, MB", model, case, my_bytes / 1e6, other_bytes / 1e6, other_bytes / my_bytes, MEMORY_TARGET)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:6], int(sys.argv[6]))
    else:
        main()
