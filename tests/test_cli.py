"""The command line with good input: what it prints and what it remembers. Bad input is in test_cli_errors.py."""

import json
import os
import re
import signal
import struct
import subprocess

import numpy as np
import pytest

from conftest import ROOT, make_model, ppm

CONTROL = "<|im_start|>"  # id 1


def ask(program, *args, **how):
    """The JSON object of one answer."""
    return json.loads(program.good(*args, "--json", **how))


# ---- one answer ----

def test_text_is_the_same_streamed_and_as_json(program, tiny, picture):
    for seed in range(4):
        args = [tiny, "What is it?", "-i", picture, "-n", "60", "-t", "1.5", "--seed", str(seed)]
        assert program.good(*args).decode() == ask(program, *args)["text"] + "\n"


FIELDS = {"text": str, "tokens": list, "prompt_tokens": list, "finish": str, "tiles": list, "video": type(None), "timings": dict, "memory": dict,
          "logits_sha256": str, "model_sha256": str, "kernel": str, "threads": int, "seed": int, "version": str}


def test_json_has_all_fields(program, tiny, picture):
    answer = ask(program, tiny, "What is it?", "-i", picture, "-n", "5", "--seed", "18446744073709551615")
    assert {name: type(value) for name, value in answer.items()} == FIELDS
    assert {type(t) for t in answer["tokens"] + answer["prompt_tokens"]} == {int}
    boxes = answer["tiles"][0].pop("boxes")  # looked at in test_dump.py
    assert len(boxes) == 17 and {type(v) for v in boxes[0].values()} == {int}
    assert answer["tiles"] == [{"width": 60, "height": 60, "resized": [144, 144], "cut": [144, 144], "rows": 4, "cols": 4,
                                "tiles": 17, "tokens": 68}]
    assert list(answer["timings"]) == ["load_ms", "encode_ms", "prompt_ms", "decode_ms", "reused_tokens"]
    assert list(answer["memory"]) == ["planned_bytes", "model_bytes", "peak_bytes"]
    assert answer["memory"]["model_bytes"] == os.path.getsize(tiny)
    assert all(re.fullmatch("[0-9a-f]{64}", answer[name]) for name in ("logits_sha256", "model_sha256"))
    assert answer["kernel"] == program.good("--kernels").decode().split()[0]
    assert (answer["threads"], answer["seed"]) == (1, 2 ** 64 - 1)


def test_number_of_tokens(program, tiny):
    greedy = ask(program, tiny, "hi", "-n", "20")
    assert len(greedy["tokens"]) == 20 and greedy["finish"] == "length"
    for n in (1, 2, 7):
        assert ask(program, tiny, "hi", "-n", n)["tokens"] == greedy["tokens"][:n]
    n_prompt = len(greedy["prompt_tokens"])
    short = ask(program, tiny, "hi", "-c", n_prompt + 4)
    assert short["finish"] == "context" and short["tokens"] == greedy["tokens"][:5]


def test_answer_ends_at_the_end_token(program, tiny):
    """Some seed draws <end_of_utterance> among the first tokens: it ends the answer and is no part of it."""
    end = read_header(tiny, 240)
    for seed in range(300):
        answer = ask(program, tiny, "hi", "-n", "8", "-t", "5", "--seed", seed)
        assert end not in answer["tokens"]
        if answer["finish"] == "stop":
            return
    pytest.fail("no seed gave the end token")


def read_header(path, offset):
    return struct.unpack_from("<I", path.read_bytes(), offset)[0]


def test_stop_texts(program, tiny):
    """Whatever stands in the answer, within a token or across several, ends it; streamed and as JSON the same."""
    args = [tiny, "hi", "-n", "40", "-t", "1.5", "--seed", "3"]
    whole = ask(program, *args)
    text = whole["text"]
    for begin, end in ((0, 1), (5, 7), (9, 17), (20, 40), (len(text) - 1, len(text))):
        stop = text[begin:end]
        assert "\0" not in stop and len(stop) == end - begin
        options = ["--stop", stop, "--stop", "not there", "--stop", stop + "not there"]
        answer = ask(program, *args, *options)
        assert answer["text"] == text[:text.index(stop)] and answer["finish"] == "stop"
        assert answer["tokens"] == whole["tokens"][:len(answer["tokens"])]
        assert program.good(*args, *options).decode() == answer["text"] + "\n"
    for stop in ("not there", text[-3:] + "not there"):  # what was held back is shown in the end
        assert ask(program, *args, "--stop", stop)["text"] == text
        assert program.good(*args, "--stop", stop).decode() == text + "\n"


@pytest.fixture(scope="module")
def looping(tmp_path_factory):
    """With one table for input and output a random model says the same again and again."""
    return make_model(tmp_path_factory.mktemp("looping"), n_layers=1, tie=True)


def in_loop(tokens):
    """Whether the last tokens, 128 or more, are a cycle of at most 64, 8 times or more."""
    for period in range(1, 65):
        n = max(128, 8 * period)
        if len(tokens) >= n and tokens[-n + period:] == tokens[-n:-period]:
            return True
    return False


def test_a_loop_ends_an_answer(program, looping):
    """At the first token at which it is one, and no sooner; nothing else changes."""
    n_loops, lengths = 0, set()
    for question in ("What is it?", "Who said 42.50", "Why not the total", "Why not it?", "Is it?", "How many this."):
        whole = ask(program, looping, question, "-n", 500, "--no-loop-check")
        result = program(looping, question, "-n", 500, "--json")
        answer, tokens = json.loads(result.stdout), whole["tokens"]
        assert whole["finish"] in ("length", "stop") and result.returncode == 0
        until = next((n for n in range(1, len(tokens) + 1) if in_loop(tokens[:n])), None)
        assert answer["tokens"] == tokens[:until]
        assert answer["finish"] == ("loop" if until else whole["finish"])
        said = "the answer went round in a loop and was ended; with --no-loop-check it goes on\n" if until else ""
        assert result.stderr.decode() == said
        lengths.add(until)
        if until:
            n_loops += 1
            assert ask(program, looping, question, "-n", until - 1)["finish"] == "length"
    assert n_loops >= 3 and len(lengths) >= 3


# ---- choosing tokens ----

def test_greedy_and_its_equals(program, tiny, picture):
    args = [tiny, "What is it?", "-i", picture, "-n", "12"]
    greedy = ask(program, *args)
    for other in ([], ["--seed", "9"], ["-t", "0"], ["-t", "2", "--top-k", "1"], ["-t", "2", "--top-p", "0"], ["-j", "2"],
                  ["-j", "7"], ["-c", "300"]):
        again = ask(program, *args, *other)
        assert (again["tokens"], again["logits_sha256"]) == (greedy["tokens"], greedy["logits_sha256"]), other


def test_every_kernel_gives_the_same_bits(program, tiny, picture):
    names = program.good("--kernels").decode().split()
    assert names[-1] == "c"
    answers = [ask(program, tiny, "hi", "-i", picture, "-n", "6", "--kernel", name) for name in names]
    assert [a["kernel"] for a in answers] == names
    assert len({a["logits_sha256"] for a in answers}) == 1


def test_both_builds_give_the_same_bits(plain, sanitized, tiny, picture):
    a, b = (ask(p, tiny, "hi", "-i", picture, "-n", "6") for p in (plain, sanitized))
    assert a["logits_sha256"] == b["logits_sha256"]


def test_seeds(program, tiny):
    def tokens(seed):
        return tuple(ask(program, tiny, "hi", "-n", "10", "-t", "1.5", "--seed", seed)["tokens"])
    drawn = [tokens(seed) for seed in range(6)]
    assert drawn == [tokens(seed) for seed in range(6)]
    assert len(set(drawn)) == 6


@pytest.fixture(scope="module")
def sampler():
    path = os.path.join(ROOT, "build", "sample_tokens")
    subprocess.run(["make", "build/sample_tokens"], cwd=ROOT, check=True, capture_output=True)

    def draw(logits, temperature, top_k, top_p, n, min_p=0, penalty=1, seen=()):
        args = map(str, [temperature, top_k, top_p, min_p, penalty, n, *seen])
        counts = subprocess.run([path, *args], input=logits.astype("<f4").tobytes(), capture_output=True, check=True).stdout
        return np.array(counts.split(), dtype=float)
    return draw


def wanted_distribution(logits, temperature, top_k, top_p, min_p=0, penalty=1, seen=()):
    """As transformers' generate() prepares it: repetition penalty, temperature, top-k, top-p, min-p."""
    import torch
    from transformers import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                              TopPLogitsWarper)

    scores = torch.tensor(logits)[None]
    if seen:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), scores)
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    return scores.double().softmax(-1)[0].numpy()


SEEN = [*range(150), *range(100, 170), 7, 7]  # of 300 tokens, some twice


@pytest.mark.parametrize("temperature, top_k, top_p, more", [
    (1.0, 0, 1.0, ()), (0.5, 0, 1.0, ()), (1.7, 0, 1.0, ()), (1.0, 5, 1.0, ()), (1.3, 40, 1.0, ()), (1.0, 0, 0.9, ()),
    (0.7, 0, 0.5, ()), (2.0, 0, 0.2, ()), (1.0, 10, 0.8, ()), (1.5, 3, 0.95, ()), (1.0, 100000, 0.999, ()), (1.5, 0, 1.0, (0.05,)),
    (1.0, 0, 1.0, (1,)), (2.0, 0, 0.7, (0.2,)), (2.0, 8, 0.99, (0.3,)), (1.0, 0, 1.0, (0, 1.3, SEEN)), (2.0, 0, 1.0, (0, 5.0, SEEN)),
    (1.5, 30, 0.9, (0.05, 1.1, SEEN)), (1.0, 0, 1.0, (0, 2.0, [7]))])
def test_frequencies_are_those_of_transformers(sampler, temperature, top_k, top_p, more):
    """Seeds 0, 1, 2, ... are fixed, so this always gives the same: chi-square within 5 of its standard deviations, and
    never a token that transformers would not draw."""
    n = 40000
    logits = np.random.default_rng(3).normal(size=300).astype(np.float32) * 3
    wanted = wanted_distribution(logits, temperature, top_k, top_p, *more)
    counts = sampler(logits, temperature, top_k, top_p, n, *more)
    assert counts.sum() == n and not counts[wanted == 0].any()
    often = wanted * n >= 5
    expected = np.append(wanted[often], wanted[~often].sum()) * n
    counts = np.append(counts[often], counts[~often].sum())
    expected, counts = expected[expected > 1e-3], counts[expected > 1e-3]
    freedom = max(len(expected) - 1, 1)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_the_program_draws_what_the_sampler_draws(plain, sampler, tiny, tmp_path):
    """The same logits and seeds: the command line passes temperature, top-k, top-p and seed on as they are."""
    from safetensors.numpy import load_file

    plain.good(tiny, "hi", "-n", "1", "--trace", tmp_path / "t")
    logits = load_file(tmp_path / "t")["logits"][-1]
    for seed in (0, 1, 12345):
        settings = ["-t", "1.7", "--top-k", "50", "--top-p", "0.8", "--min-p", "0.1", "--repeat-penalty", "1.5", "--seed"]
        answer = ask(plain, tiny, "hi", "-n", "1", *settings, seed)
        before, after = (sampler(logits, 1.7, 50, 0.8, n, 0.1, 1.5, answer["prompt_tokens"]) for n in (seed, seed + 1))
        assert answer["tokens"] == list(np.flatnonzero(after - before))


def test_greedy_with_a_penalty_is_that_of_transformers(plain, tiny, tmp_path):
    """Over the prompt and the answer: at each step the best of the logits that transformers has penalised."""
    import torch
    from safetensors.numpy import load_file
    from transformers import RepetitionPenaltyLogitsProcessor

    answer = ask(plain, tiny, "hi", "-n", "30", "--repeat-penalty", "1.2", "--trace", tmp_path / "t")
    assert answer["tokens"] != ask(plain, tiny, "hi", "-n", "30")["tokens"]
    seen, n_prompt = answer["prompt_tokens"] + answer["tokens"], len(answer["prompt_tokens"])
    for row, logits in enumerate(load_file(tmp_path / "t")["logits"][n_prompt - 1:], n_prompt):
        scores = RepetitionPenaltyLogitsProcessor(1.2)(torch.tensor([seen[:row]]), torch.tensor(logits)[None])
        assert scores.argmax() == seen[row]


# ---- prompts ----

def ids(program, *args, **how):
    return [int(t) for t in program.good(*args, "--tokenize", **how).split()]


def test_tokenize(program, tiny, picture):
    for extra in ([], ["-i", picture], ["-s", "Be short."], ["--raw"]):
        plain_ids = ids(program, tiny, "What is it?", *extra)
        assert json.loads(program.good(tiny, "What is it?", *extra, "--tokenize", "--json")) == plain_ids
        assert ask(program, tiny, "What is it?", *extra, "-n", "1")["prompt_tokens"] == plain_ids


def test_template_and_system_prompt(program, tiny):
    def as_text(text):
        return ids(program, tiny, text, "--raw", "--special")
    turn = "<|im_start|>{}User: Why?<end_of_utterance>\nAssistant:"
    assert ids(program, tiny, "Why?") == as_text(turn.format(""))
    system = "System: Be kind.<end_of_utterance>\n"
    assert ids(program, tiny, "Why?", "-s", "Be kind.") == as_text(turn.format(system))


def test_control_tokens_count_only_where_they_may(program, tiny):
    assert ids(program, tiny, CONTROL, "--raw", "--special") == [1]
    assert len(ids(program, tiny, CONTROL, "--raw")) > 3 and 1 not in ids(program, tiny, CONTROL, "--raw")
    assert ids(program, tiny, CONTROL + "hi").count(1) == 1
    assert ids(program, tiny, "hi", "-s", CONTROL).count(1) == 1
    image = read_header(tiny, 232)
    assert image not in ids(program, tiny, "<image>") and ids(program, tiny, "<image>", "--raw", "--special") == [image]
    assert ids(program, tiny, b"caf\xe9") == ids(program, tiny, "caf\ufffd")


def test_max_tiles(program, tiny, picture, tmp_path):
    """The largest size of 36 k pixels that needs no more tiles: k x k of a square, and the whole view if k > 1."""
    def said(args):
        result = program(tiny, "?", *args, "-n", "1", "--json")
        assert result.returncode == 0
        return json.loads(result.stdout)["tiles"], result.stderr.decode()
    for most, edge in ((1, 36), (2, 36), (4, 36), (5, 72), (9, 72), (10, 108), (16, 108), (17, 144), (99, 144)):
        (tiles,), cost = said(["-i", picture, "--max-tiles", most])
        n = {36: 1, 72: 5, 108: 10, 144: 17}[edge]
        assert tiles["resized"] == [edge, edge] and tiles["tiles"] == n, most
        assert cost == f"{picture}: {n} tile{'s'[n == 1:]}, {4 * n} image tokens (without --max-tiles 17 tiles, 68 image tokens)\n"
    other = tmp_path / "wide.ppm"
    other.write_bytes(ppm(90, 30, seed=5))
    both, cost = said(["-i", picture, "-i", other, "--max-tiles", "6"])
    assert [t["tiles"] for t in both] == [5, 4]  # for each: 2 x 2 and 1 x 3, with the whole view
    assert cost == f"{picture}: 5 tiles, 20 image tokens (without --max-tiles 17 tiles, 68 image tokens)\n" \
                   f"{other}: 4 tiles, 16 image tokens (without --max-tiles 9 tiles, 36 image tokens)\n"


def test_max_tiles_says_the_cost_before_it_is_paid(plain, slow, picture):
    """The line is there while the tiles are still to come."""
    args = [slow, "?", "-i", picture, "--max-tiles", "10", "-n", "3000", "-t", "1.5"]
    process = plain.start(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process.stdout, process.stderr:
        line = process.stderr.readline().decode()
        os.set_blocking(process.stdout.fileno(), False)
        assert process.stdout.read() is None, "nothing has been answered"
        process.kill()
        process.wait()
    assert line == f"{picture}: 10 tiles, 40 image tokens (without --max-tiles 17 tiles, 68 image tokens)\n"


def test_pictures(program, tiny, picture, tmp_path):
    image = read_header(tiny, 232)
    other = tmp_path / "wide.ppm"
    other.write_bytes(ppm(90, 30, seed=5))
    two = ask(program, tiny, "Which?", "-i", picture, "-i", other, "-n", "5")
    assert [(t["width"], t["tiles"], t["tokens"]) for t in two["tiles"]] == [(60, 17, 68), (90, 9, 36)]
    assert two["prompt_tokens"].count(image) == 104
    swapped = ask(program, tiny, "Which?", "-i", other, "-i", picture, "-n", "5")
    assert swapped["logits_sha256"] != two["logits_sha256"]
    piped = ask(program, tiny, "Which?", "-i", picture, "-i", "-", "-n", "5", stdin=other.read_bytes())
    assert piped["logits_sha256"] == two["logits_sha256"]
    whole = ask(program, tiny, "Which?", "-i", picture, "-i", other, "-n", "5", "--no-tiling")
    assert [t["tokens"] for t in whole["tiles"]] == [4, 4] and whole["prompt_tokens"].count(image) == 8
    marked = ask(program, tiny, "First <image>, then <image>.", "-i", picture, "-i", other, "-n", "5")
    assert [t["tokens"] for t in marked["tiles"]] == [68, 36] and marked["prompt_tokens"].count(image) == 104
    raw = ask(program, tiny, "Which?", "-i", picture, "--raw", "-n", "5")
    assert raw["prompt_tokens"].count(image) == 68


def test_model_from_standard_input(program, tiny):
    piped = ask(program, "-", "hi", "-n", "3", stdin=tiny.read_bytes())
    assert piped["logits_sha256"] == ask(program, tiny, "hi", "-n", "3")["logits_sha256"]


# ---- reports ----

def test_info_and_verify(program, tiny):
    info = program.good(tiny, "--info").decode()
    answer = ask(program, tiny, "hi", "-n", "1")
    assert answer["model_sha256"] in info and "rope.inv_freq" in info and '"source"' in info
    assert "n_kv_heads 2, head_dim 8" in info and "chat template SmolVLM" in info
    n_tensors = read_header(tiny, 56)
    assert f"{n_tensors} of {n_tensors} tensors" in program.good(tiny, "--verify").decode()


def test_help_and_version(program):
    text = program.good("--help").decode()
    assert max(map(len, text.splitlines())) < 132
    for option in "--image --system --no-tiling --raw --special --tokens --temperature --top-p --top-k --min-p " \
                  "--repeat-penalty --seed --stop --no-loop-check --choices --logprobs --context --threads --kv-int8 --kernel --kernels --in-memory --timings --json --tokenize --trace --plan --info --verify".split():
        assert option in text
    assert program.good("--version").startswith(b"smol 0.")


def plan_rows(text):
    rows = [re.fullmatch(r" *(\d+)  (.+)", line) for line in text.splitlines()]
    return [(row[2], int(row[1])) for row in rows]


def test_plan_adds_up_and_is_what_is_used(plain, sanitized, big, tmp_path):
    """Nothing is taken besides the plan but the program itself and its tables: less than 10 MB."""
    path = tmp_path / "large.ppm"
    path.write_bytes(b"P6 1500 1500 255\n" + bytes(3 * 1500 * 1500))
    args = [big, "x " * 400, "-i", path, "-n", "1"]
    rows = plan_rows(plain.good(*args, "--plan").decode())
    assert plan_rows(sanitized.good(*args, "--plan").decode()) == rows
    names, sizes = zip(*rows)
    at = next(i for i, name in enumerate(names) if name.startswith("engine ("))
    # The rows before are the buffers; the smaller of decoder's and encoder's is shared and not added.
    decoder = sum(s for n, s in rows[:at] if n.startswith("decoder"))
    encoder = sum(s for n, s in rows[:at] if n.startswith("encoder"))
    assert sum(sizes[:at]) - min(decoder, encoder) == sizes[at]
    assert names[at + 1:at + 3] == ("pictures, one at a time", "model file, mapped and not copied")
    assert names[at + 3].startswith("the rest of it: the embedding table") and names[at + 4:] == ("total",)
    assert sum(sizes[at:-1]) == sizes[-1] and sizes[-3] + sizes[-2] == os.path.getsize(big)
    memory = ask(plain, *args)["memory"]
    assert memory["planned_bytes"] + memory["model_bytes"] == sizes[-1]
    assert 0.98 * (sizes[-1] - sizes[-2]) < memory["peak_bytes"] < sizes[-1] + (10 << 20)


def test_keys_and_values_in_8_bits(plain, tiny):
    """A smaller cache, other bits than without, and the same whatever the kernel."""
    rows = [dict(plan_rows(plain.good(tiny, "hi", "--plan", *options).decode())) for options in ((), ("--kv-int8",))]
    assert [name for name in rows[0] if rows[0][name] != rows[1][name] and name != "total"][0] == "KV cache"
    key, scale, lanes = 8, 4, 16  # bytes for each head of a position, whose values are padded
    assert rows[0]["KV cache"] / rows[1]["KV cache"] == 4 * (key + lanes) / (key + lanes + 2 * scale)
    ask_with = [ask(plain, tiny, "hi", "-n", "4", "--kernel", kernel, "--kv-int8")["logits_sha256"]
                for kernel in plain.good("--kernels").decode().split()]
    assert len(set(ask_with)) == 1 and ask_with[0] != ask(plain, tiny, "hi", "-n", "4")["logits_sha256"]


def test_a_copy_in_memory_answers_the_same(plain, tiny, tmp_path):
    assert ask(plain, tiny, "hi", "-n", "4", "--in-memory")["logits_sha256"] == ask(plain, tiny, "hi", "-n", "4")["logits_sha256"]
    model = tmp_path / "empty.smol"
    model.write_bytes(b"")
    assert plain(model, "hi", "--in-memory").returncode == 1


def test_timings(program, tiny, picture):
    result = program(tiny, "hi", "-i", picture, "-n", "3", "-V")
    assert re.fullmatch(rb"load .* ms \| pictures 17 tiles .* \| prompt \d+ tokens .* \| answer 3 tokens .*/s\n"
                        rb"kernel \w+, 1 thread, peak memory .* MB, finish: length\n", result.stderr)


def test_trace(program, tiny, picture, tmp_path):
    from safetensors.numpy import load_file

    (tmp_path / "t").write_bytes(b"an older one")
    answer = ask(program, tiny, "hi", "-i", picture, "-n", "3", "--trace", tmp_path / "t")
    assert os.listdir(tmp_path) == ["t"]
    n_tok = len(answer["prompt_tokens"]) + 2  # the last token is not fed back
    shapes = {"pixel_values": (17, 3, 36, 36), "model.vision_model.embeddings": (17, 16, 24),
              **{f"model.vision_model.encoder.layers.{i}": (17, 16, 24) for i in range(2)},
              "model.vision_model.post_layernorm": (17, 16, 24), "model.connector": (17, 4, 40), "inputs_embeds": (n_tok, 40),
              **{f"model.text_model.layers.{i}": (n_tok, 40) for i in range(3)},
              "model.text_model.norm": (n_tok, 40), "logits": (n_tok, 640)}
    tensors = load_file(tmp_path / "t")
    assert {name: x.shape for name, x in tensors.items()} == shapes
    assert all(np.isfinite(x).all() for x in tensors.values())
    n_prompt = len(answer["prompt_tokens"])
    assert list(tensors["logits"][n_prompt - 1:].argmax(1)) == answer["tokens"]
    # The trace does not change the numbers.
    assert ask(program, tiny, "hi", "-i", picture, "-n", "3")["logits_sha256"] == answer["logits_sha256"]


# ---- chat ----

def chat(program, *args, lines, status=0, **how):
    """The JSON answers of a chat and what standard error said."""
    result = program(*args, "--json", "-n", "6", stdin="".join(line + "\n" for line in lines).encode(), **how)
    assert result.returncode == status, result
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr.decode()


def test_chat_encodes_a_picture_once(program, tiny, picture):
    (one, two), said = chat(program, tiny, "-i", picture, "-V", lines=["What is it?", "And what else?"])
    assert [re.search(r"pictures (\d+) tiles", line)[1] for line in said.splitlines()[::2]] == ["17", "0"]
    assert one["timings"]["reused_tokens"] == 0 and one["timings"]["encode_ms"] > 0
    # The first question with its picture stays; what the answer's text gives as tokens may differ from what was drawn.
    assert len(one["prompt_tokens"]) <= two["timings"]["reused_tokens"] < len(two["prompt_tokens"])
    assert two["prompt_tokens"][:len(one["prompt_tokens"])] == one["prompt_tokens"]
    assert len(two["tiles"]) == 1 and two["timings"]["encode_ms"] < 1


def test_chat_answers_are_those_of_a_fresh_process(program, tiny):
    """Three turns without pictures, and each prompt as raw text in a process of its own: the same ids, the same bits."""
    questions = ["Who is it?", "Why? Tell me \u65e5\u672c\u8a9e.", "And then?"]
    answers, said = chat(program, tiny, "-s", "Be kind.", lines=questions)
    assert said == "" and len(answers) == 3
    text = "<|im_start|>System: Be kind.<end_of_utterance>\n"
    for question, answer in zip(questions, answers):
        text += f"User: {question}<end_of_utterance>\nAssistant:"
        fresh = ask(program, tiny, text, "--raw", "--special", "-n", "6")
        assert fresh["prompt_tokens"] == answer["prompt_tokens"]
        assert (fresh["tokens"], fresh["logits_sha256"]) == (answer["tokens"], answer["logits_sha256"])
        text += f" {answer['text'].rstrip(' ' + chr(10))}<end_of_utterance>\n"
    assert answers[2]["timings"]["reused_tokens"] > 0


def test_chat_with_a_picture_equals_one_question(program, tiny, picture):
    once = ask(program, tiny, "What is it?", "-i", picture, "-n", "6")
    for command in (f"/image {picture}", f"/image   {picture} \t "):
        (answer,), said = chat(program, tiny, lines=[command, "What is it?", "/quit  ", "not asked"])
        assert (answer["prompt_tokens"], answer["logits_sha256"]) == (once["prompt_tokens"], once["logits_sha256"])
        assert said == f"{picture}: 17 tiles, 68 image tokens\n"
    (answer,), said = chat(program, tiny, "--max-tiles", "5", lines=[f"/image {picture}", "What is it?"])
    assert answer["tiles"][0]["tiles"] == 5
    assert said == f"{picture}: 5 tiles, 20 image tokens (without --max-tiles 17 tiles, 68 image tokens)\n"


def test_chat_goes_on_after_errors(program, tiny, picture, tmp_path):
    cut, text = tmp_path / "cut.ppm", tmp_path / "text"
    cut.write_bytes(b"P5 90 90 255\n" + bytes(100))
    text.write_bytes(b"no picture")
    png = tmp_path / "damaged.png"  # good enough to be probed, and found out when it is decoded
    from PIL import Image
    Image.effect_noise((60, 60), 50).save(png)
    png.write_bytes(png.read_bytes()[:1500])
    lines = ["Who?", f"/image {tmp_path}/none.png", f"/image {cut}", f"/image {text}", "/nonsense", "", "Why?", f"/image {png}",
             "See?", "word " * 3000, f"/image {picture}", "What?", "/quit", "never asked"]
    answers, said = chat(program, tiny, lines=lines, status=1)
    said = said.splitlines()
    faults = [f"smol: {tmp_path}/none.png: No such", f"smol: {cut}: PNM: cut off", f"smol: {text}: not a picture",
              "smol: /nonsense is no command; there are /image /video ", f"{png}: 17 tiles, 68 image tokens", f"smol: {png}: PNG: ",
              "smol: its pictures go with it", "smol: the prompt has ", "smol: /drop forgets",
              f"{picture}: 17 tiles, 68 image tokens"]
    assert len(said) == len(faults) and all(a.startswith(b) for a, b in zip(said, faults)), said
    # What failed left no trace: the same chat without it gives the same answers.
    good, _ = chat(program, tiny, lines=["Who?", "Why?", f"/image {picture}", "What?"])
    assert len(answers) == 3
    assert [(a["prompt_tokens"], a["logits_sha256"]) for a in answers] == [(a["prompt_tokens"], a["logits_sha256"]) for a in good]


def test_chat_until_the_context_is_full(program, tiny):
    answers, said = chat(program, tiny, "-c", "60", lines=["one two three"] * 8, status=1)
    said = said.splitlines()
    assert 1 < len(answers) < 8 and len(answers) + len(said) / 2 == 8
    assert all(line.startswith("smol: the prompt has ") for line in said[::2])
    assert set(said[1::2]) == {"smol: /drop forgets the oldest question and its answer, /reset the conversation"}


def test_chat_without_questions(program, tiny):
    assert program.good(tiny) == b""
    assert program.good(tiny, stdin=b"/quit\nhi\n") == b""
    assert program.good(tiny, "-n", "3", stdin=b"hi") == program.good(tiny, "-n", "3", stdin=b"hi\r\n") \
        == program.good(tiny, "hi", "-n", "3")


# ---- whole characters ----

def test_output_comes_in_whole_characters(program, tiny):
    """A random model says every byte there is. Each write is read alone: the writer waits for nobody, but a pipe keeps
    writes whole, and together they stay decodable."""
    n_chunks, text = 0, ""
    for seed in range(3):
        process = program.start(tiny, "hi", "-n", "300", "-t", "1.5", "--seed", str(seed), stdout=subprocess.PIPE)
        with process.stdout:
            while chunk := os.read(process.stdout.fileno(), 1 << 16):
                n_chunks += 1
                text += chunk.decode("utf-8", "strict")
        assert process.wait() == 0
    assert n_chunks > 10 and "\ufffd" in text and any(ord(c) > 0x7f and c != "\ufffd" for c in text)


def test_text_is_what_the_reference_decodes(program, tiny):
    """Invalid bytes become U+FFFD as often as in the reference's decoder."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny.parent / "hf" / "tokenizer.json"))
    for seed in range(8):
        answer = ask(program, tiny, "hi", "-n", "200", "-t", "1.5", "--seed", seed)
        assert answer["text"] == tokenizer.decode(answer["tokens"]).lstrip(" ")


# ---- interrupts ----

def interrupt_after_output(program, *args):
    """SIGINT as soon as there is output; returns status and the whole output."""
    process = program.start(*args, stdout=subprocess.PIPE)
    with process.stdout:
        first = os.read(process.stdout.fileno(), 1 << 16)
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=60), first + process.stdout.read()


def test_interrupt_ends_an_answer(program, slow):
    args = [slow, "hi", "-n", "8000", "-t", "1.5", "--seed"]
    for seed in range(5):  # some answers may end by themselves
        status, output = interrupt_after_output(program, *args, seed)
        if status != 0:
            break
    assert status == 130 and output.endswith(b"\n") and output.decode("utf-8", "strict")


def interrupt_at(program, mark, *args):
    """SIGINT as soon as the progress line has the mark; returns status and output."""
    import pty
    ours, theirs = pty.openpty()
    process = program.start(*args, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    got, sent = b"", False
    try:
        while chunk := os.read(ours, 1 << 16):
            got += chunk
            if not sent and mark in got:
                process.send_signal(signal.SIGINT)
                sent = True
    except OSError:  # how Linux tells the end
        pass
    os.close(ours)
    assert sent, got
    output = process.communicate(timeout=60)[0]
    return process.returncode, output


def test_interrupt_before_and_within_the_prompt(program, slow, picture, tmp_path):
    """What there is, valid JSON, status 130, and the trace is complete. tests/test_faults.py does it at every system call."""
    from safetensors.numpy import load_file

    args = slow, "word " * 300, "-i", picture, "--json", "-n", "2000"
    for i, mark in enumerate((b"tile 1/", b"tile 9/", b"prompt: ")):
        trace = tmp_path / f"t{i}"
        status, output = interrupt_at(program, mark, *args, "--trace", trace)
        assert (status, json.loads(output)["finish"]) == (130, "interrupted"), mark
        load_file(trace)
    assert sorted(os.listdir(tmp_path)) == ["t0", "t1", "t2"]


def test_interrupt_before_there_is_an_answer(program, tiny):
    """While the program waits for a picture, it just ends."""
    process = program.start(tiny, "hi", "-i", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"P6 1000 1000 255\n" + bytes(1 << 17))  # more than a pipe holds: it has been read when this returns
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130


def test_interrupt_in_a_chat_ends_only_the_answer(program, slow):
    """What follows is as if the answer had been as short as that."""
    process = program.start(slow, "-n", "2000", "-t", "1.5", "--seed", "1", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"first\n")
    process.stdin.flush()
    first = os.read(process.stdout.fileno(), 1 << 16)
    process.send_signal(signal.SIGINT)
    while not first.endswith(b"\n"):
        first += os.read(process.stdout.fileno(), 1 << 16) or pytest.fail("the chat ended with the answer")
    process.stdin.write(b"/quit\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


# ---- terminals ----

def in_terminal(program, args, stdin, answer_in_terminal):
    """Runs with standard error (and output) in a pseudo-terminal; returns what the terminal got."""
    import pty
    import tty
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    process = program.start(*args, stdin=stdin, stderr=theirs, stdout=theirs if answer_in_terminal else subprocess.DEVNULL)
    os.close(theirs)
    got = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            got += chunk
    except OSError:  # how Linux tells the end
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return got


def test_progress_appears_on_terminals_only(program, tiny, picture):
    args = [tiny, "word " * 200, "-i", picture, "-n", "4"]
    answer = program.good(*args)  # nothing on standard error
    for both in (False, True):
        got = in_terminal(program, args, subprocess.DEVNULL, both)
        progress = got[:-len(answer)] if both else got
        if both:
            assert got.endswith(answer)
        shown = progress.split(b"\r\x1b[K")
        assert shown[0] == b"" and shown[-1] == b"", "cleared before the answer"
        assert b"tile 1/17, layer 1/2" in shown and b"tile 17/17, layer 1/2" in shown
        assert any(re.fullmatch(rb"prompt: \d+/\d+ tokens", line) for line in shown)


def test_error_clears_the_progress_line(program, tiny, picture, tmp_path):
    cut = tmp_path / "cut.png"
    from PIL import Image
    Image.effect_noise((60, 60), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    import pty
    ours, theirs = pty.openpty()
    process = program.start(tiny, "hi", "-i", picture, "-i", cut, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    got = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            got += chunk
    except OSError:
        pass
    os.close(ours)
    assert process.wait() == 1
    assert re.fullmatch(rb"smol: [^\r\n\x1b]*cut.png: PNG: [^\r\n\x1b]*\r\n", got.split(b"\r\x1b[K")[-1])


@pytest.mark.parametrize("key, status", [(b"\x03", 130), (b"\x04", 0)], ids=["Ctrl-C", "Ctrl-D"])
def test_keys_that_end_a_chat(program, tiny, key, status):
    """In a terminal of its own: a question, the key at the next prompt; what comes after stands on a new line.

    A shell leads the session and stays: when a leader ends, the terminal's last output may be lost.
    """
    import pty
    pid, terminal = pty.fork()
    if pid == 0:
        script = 'trap : INT; "$@"; echo "status $?"; read wait'
        os.execve("/bin/sh", ["sh", "-c", script, "sh", *program.command([str(tiny), "-n", "3"])], program.env)
    got = b""

    def until(text):
        nonlocal got
        while text not in got:
            got += os.read(terminal, 1 << 16)
        got = got[got.index(text) + len(text):]
    until(b"\n> ")
    os.write(terminal, b"hi\n")
    until(b"hi\r\n")
    until(b"> ")
    os.write(terminal, key)
    until(b"\r\nstatus %d\r\n" % status)
    assert got == b""
    os.close(terminal)
    os.waitpid(pid, 0)
