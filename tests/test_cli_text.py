"""Text models on the command line: --score, what it refuses, that neither threads nor kernels change it; and no pictures."""

import json

import pytest

from configs import LONG


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LONG[:1500] + " Grüße \x00 <|im_end|>")
    return path


def test_score_windows(program, tiny, text):
    result = json.loads(program.good(tiny, "--score", text, "-c", 100))
    assert result["window"] == 100 and result["windows"] == len(result["window_nll"]) == result["tokens"] // 100 > 3
    assert result["predictions"] == 99 * result["windows"] and 0 < result["mean_nll"] < 50
    assert json.loads(program.good(tiny, "--score", text, "-c", 2, "--json"))["windows"] == result["tokens"] // 2


def test_score_is_the_same_everywhere(plain, tiny, text):
    kernels = plain.good("--kernels").decode().split()
    numbers = {plain.good(tiny, "--score", text, "-c", 300, "-j", j, "--kernel", k).decode().split(',"kernel"')[0]
               for j in (1, 3) for k in kernels}
    assert len(numbers) == 1


@pytest.mark.parametrize("options, content, message", [
    ([], None, "no.txt: "), ([], b"", "0 tokens do not fill a window of 512"),
    ([], b"one two", "tokens do not fill a window of 512"),
    (["-c", "1"], b"one two", "do not fill a window of 1 (-c sets its length, at least 2)"),
    (["-c", "1025"], b"one " * 9000, "context 1025 is not within 1 to the model's 1024"),
])
def test_score_refuses(program, tiny, tmp_path, options, content, message):
    path = tmp_path / "no.txt"
    if content is not None:
        path.write_bytes(content)
    assert message in program.bad(tiny, "--score", path, *options)


@pytest.mark.parametrize("words, message", [
    (["--score", "a.txt", "hi"], "take no prompt"), (["--score", "a.txt", "-i", "a.png"], "take no prompt and no picture"),
    (["--score", "a.txt", "--verify"], "one at a time"), (["--score"], "a value is missing after --score"),
    (["--score", "a.txt", "--trace", "t"], "have no trace"),
])
def test_score_wrong_usage(plain, words, message):
    assert message in plain.bad("M", *words, status=2)


# ---- a model that reads text only ----

@pytest.fixture(scope="module")
def text_only(tmp_path_factory):
    import text_model
    from harness import export
    folder = tmp_path_factory.mktemp("text")
    return export(text_model.make_folder(folder / "hf", n_layers=1), str(folder / "model.smol"))


def test_no_pictures(program, text_only, picture, tmp_path):
    line = program.bad(text_only, "--raw", "-i", picture, "What is it?")
    assert "square.ppm: this model reads text only, no pictures" in line
    assert "this model was not made for videos" in program.bad(text_only, "--raw", "-v", picture, "What is it?")
    said = program(text_only, stdin=f"/image {picture}\n".encode())
    assert b"square.ppm: this model reads text only, no pictures\n" in said.stderr


def test_no_template(program, text_only):
    """A template that is not known is one line, which offers what there is; in a chat for each question."""
    fault = "smol: this model has no chat template that smol.c knows: use --raw\n"
    assert program.bad(text_only, "hi") == program.bad(text_only, "hi", "--tokenize") == fault
    assert program.good(text_only, "hi", "--raw", "-n", "2")
    result = program(text_only, stdin=b"hi\nho\n")
    assert (result.returncode, result.stdout, result.stderr.decode()) == (1, b"", 2 * fault)
    assert program.bad(text_only, "hi", "--choices", "yes,no") == fault


def test_info_of_a_text_model(program, text_only):
    said = program.good(text_only, "--info").decode()
    assert "encoder" not in said and "pictures" not in said and "model.layers.0.self_attn.q_proj.weight" in said
    plan = program.good(text_only, "--raw", "--plan", "Hello").decode()
    assert "encoder activations" not in plan and "decoder activations" in plan
