"""--choices and --logprobs, against transformers' log_softmax over the same tokens."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import text_model
from conftest import ROOT
from harness import export
from reference import Reference, message
from test_text import Reference as TextReference

DEMO = os.path.join(ROOT, "models", "demo")
CHOICES = ["no", "no idea", "unsure", "yes", "日本", "42.50 euros", "It is a dog, is it?".replace(",", ";")]


def ask(program, *args, **how):
    return json.loads(program.good(*args, "--json", **how))


@pytest.fixture(scope="module")
def reference(tiny):
    return Reference(str(tiny.parent / "hf"))


@torch.no_grad()
def rows(reference, inputs, ids):
    """log softmax at each place of the prompt and the ids that follow it: row i foretells what comes after i."""
    inputs = {k: v for k, v in inputs.items() if k in ("pixel_values", "pixel_attention_mask")}
    return reference.model(input_ids=torch.tensor([ids]), **inputs, use_cache=False).logits[0].double().log_softmax(-1).numpy()


def wanted_scores(reference, images, question, choices):
    """Per choice its tokens, and the sum of their log-probabilities."""
    tokens, sums = [], []
    asked = message("user", question, len(images))
    inputs = reference.process_messages(images, [asked], {})
    n_prompt = inputs["input_ids"].shape[1]
    for choice in choices:
        said = reference.process_messages(images, [asked, message("assistant", choice)], {})["input_ids"][0].tolist()
        assert said[:n_prompt] == inputs["input_ids"][0].tolist()
        said = said[:said.index(reference.eos_id, n_prompt) + 1]
        log_p = rows(reference, inputs, said)
        tokens.append(said[n_prompt:])
        sums.append(sum(log_p[i - 1][said[i]] for i in range(n_prompt, len(said))))
    return tokens, np.array(sums)


def compare(answer, choices, tokens, sums):
    assert [c["logprob"] for c in answer["choices"]] == sorted((c["logprob"] for c in answer["choices"]), reverse=True)
    got = {c["text"]: c for c in answer["choices"]}
    assert sorted(got) == sorted(choices)
    probabilities = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
    for choice, ids, logprob, probability in zip(choices, tokens, sums, probabilities):
        assert got[choice]["tokens"] == ids
        assert abs(got[choice]["logprob"] - logprob) < 1e-4
        assert abs(got[choice]["probability"] - probability) < 1e-4
    best = answer["choices"][0]
    assert (answer["text"], answer["tokens"], answer["finish"]) == (best["text"], best["tokens"][:-1], "choice")


@pytest.mark.parametrize("with_picture", [False, True])
def test_scores_are_those_of_transformers(program, tiny, reference, picture, with_picture):
    question, images = "What is it?", [Image.open(picture)] if with_picture else []
    answer = ask(program, tiny, question, "--choices", ",".join(CHOICES), *(["-i", picture] if with_picture else []))
    compare(answer, CHOICES, *wanted_scores(reference, images, question, CHOICES))


@pytest.mark.parametrize("picture, question, choices", [
    ("06_display.png", "Read the meter.", ["7.5", "7", "75", "7.56", "9"]),
    ("10_how_many.png", "How many circles are there?", ["1", "2", "3", "12", "two"])])
def test_scores_of_the_demonstration_model(plain, picture, question, choices):
    path = os.path.join(DEMO, "pictures", picture)
    answer = ask(plain, os.path.join(DEMO, "demo.smol"), question, "-i", path, "--choices", ",".join(choices))
    compare(answer, choices, *wanted_scores(Reference(DEMO), [Image.open(path)], question, choices))
    assert answer["text"] == plain.good(os.path.join(DEMO, "demo.smol"), question, "-i", path).decode().rstrip("\n")


@pytest.mark.parametrize("model", ["LlamaForCausalLM", "MistralForCausalLM"])
def test_raw_scores(plain, model, tmp_path):
    """The text as it stands, and the model's end token."""
    folder = text_model.make_folder(tmp_path / "hf", architecture=model)
    path, reference = export(folder, str(tmp_path / "model.smol")), TextReference(folder)
    prompt, choices = "The quick brown", [" fox", " dog", " fox jumps over", " FOX "]
    answer = ask(plain, path, prompt, "--raw", "--choices", ",".join(choices))
    tokens, sums = [], []
    n_prompt = len(reference.tokenizer.encode(prompt, add_special_tokens=False).ids)
    for choice in choices:
        ids = reference.tokenizer.encode(prompt + choice, add_special_tokens=False).ids + [2]
        log_p = reference.logits(ids).double().log_softmax(-1)
        tokens.append(ids[n_prompt:])
        sums.append(sum(float(log_p[i - 1][ids[i]]) for i in range(n_prompt, len(ids))))
    compare(answer, choices, tokens, np.array(sums))
    assert "meet within a token" in plain.bad(path, "The qui", "--raw", "--choices", "ck brown, x")


def test_choices_as_text(program, tiny):
    """Best first; spaces around a choice are not part of it; the order in which they are given does not matter."""
    answer = ask(program, tiny, "Is it?", "--choices", "yes,no,unsure,no idea")
    wanted = "".join(f"{c['probability']:.6f}  {c['text']}\n" for c in answer["choices"])
    for list_ in ("yes,no,unsure,no idea", " no idea ,unsure, no, yes"):
        assert program.good(tiny, "Is it?", "--choices", list_).decode() == wanted
    assert abs(sum(c["probability"] for c in answer["choices"]) - 1) < 1e-6
    again = ask(program, tiny, "Is it?", "--choices", "no", "-j", 3)
    assert again["choices"][0]["probability"] == 1
    assert again["choices"][0]["logprob"] == next(c["logprob"] for c in answer["choices"] if c["text"] == "no")


def test_choices_and_the_context(program, tiny):
    args = [tiny, "Is it?", "--choices", "yes,A very long answer that has many words"]
    n_prompt = len(ask(program, *args)["prompt_tokens"])
    longest = max(len(c["tokens"]) for c in ask(program, *args)["choices"])
    fitting = n_prompt + longest - 1  # nothing comes after the end
    assert ask(program, *args, "-c", fitting)["choices"] == ask(program, *args)["choices"]
    line = program.bad(*args, "-c", fitting - 1)
    assert f"the prompt has {n_prompt} tokens and the longest choice {longest - 1}, and the context holds" in line


@pytest.mark.parametrize("args, part", [
    (["--choices", "yes,no"], "--choices wants a PROMPT"), (["hi", "--choices", ""], "--choices wants texts"),
    (["hi", "--choices", b"caf\xe9"], "wants texts in UTF-8"), (["hi", "--choices", "yes,,no"], "has an empty one"), (["hi", "--choices", "yes, "], "has an empty one"),
    (["hi", "--choices", "yes, no,yes "], "has one twice"), (["hi", "--choices", ",".join(map(str, range(65)))], "too many choices"),
    (["hi", "--choices", "a,b", "--logprobs", "1"], "takes no --logprobs"),
    (["hi", "--logprobs", "101"], "too many alternatives"), (["hi", "--logprobs", "0"], "--logprobs wants")])
def test_wrong_usage(program, args, part):
    assert part in program.bad("M", *args, status=2)


# ---- --logprobs ----

@pytest.mark.parametrize("options", [[], ["-t", "1.5", "--seed", "4", "--top-k", "50", "--repeat-penalty", "1.3"]])
def test_logprobs_are_those_of_transformers(program, tiny, reference, picture, options):
    """Of the model: neither the temperature nor the penalty is in them."""
    args = [tiny, "What is it?", "-i", picture, "-n", "24", *options]
    answer = ask(program, *args, "--logprobs", 5)
    n_prompt, ids = len(answer["prompt_tokens"]), answer["prompt_tokens"] + answer["tokens"]
    log_p = rows(reference, reference.process([Image.open(picture)], "What is it?"), ids)[n_prompt - 1:-1]
    assert [t["id"] for t in answer["logprobs"]] == answer["tokens"] and len(log_p) == len(answer["tokens"]) > 5
    for row, token in zip(log_p, answer["logprobs"]):
        assert abs(token["logprob"] - row[token["id"]]) < 1e-4
        top = token["top"]
        assert len(top) == 5 and len({t["id"] for t in top}) == 5
        np.testing.assert_allclose([t["logprob"] for t in top], np.sort(row)[::-1][:5], atol=1e-4)
        np.testing.assert_allclose([t["logprob"] for t in top], row[[t["id"] for t in top]], atol=1e-4)
        assert token in [{**t, "top": top} for t in top] or token["logprob"] < top[-1]["logprob"]
    without = ask(program, *args)
    assert (without["tokens"], without["logits_sha256"]) == (answer["tokens"], answer["logits_sha256"])


def test_logprobs_as_text(program, tiny):
    """After the answer, on standard error: a line for each token."""
    args = [tiny, "hi", "-n", "8", "-t", "1.5", "--seed", "2", "--logprobs", "2"]
    answer, result = ask(program, *args), program(*args)
    assert result.returncode == 0 and result.stdout.decode() == answer["text"] + "\n"
    lines = result.stderr.decode().splitlines()
    assert len(lines) == len(answer["tokens"]) == 8
    for line, token in zip(lines, answer["logprobs"]):
        # A token may be a part of a character, and control tokens have names.
        rest = ", ".join(f"{t['logprob']:.4f} {json.dumps(t['text'], ensure_ascii=False)}" for t in token["top"])
        first = json.dumps(token["text"], ensure_ascii=False).replace("\\t", "\\u0009").replace("\\r", "\\u000d")
        assert line == f"{token['logprob']:9.4f}  {first}   of: " + rest.replace("\\t", "\\u0009").replace("\\r", "\\u000d")
