"""The chat's commands, and conversations kept in files. What a chat remembers is compared with the same conversation asked at
once, as raw text, in a process of its own: the same ids, the same bits."""

import hashlib
import json
import os
import random
import re
import resource
import select
import struct
import time

import pytest

from conftest import make_model, ppm

NEWS = ["prompt_tokens", "tokens", "text", "finish", "tiles", "video", "logits_sha256"]


def chat(program, *args, lines, status=0):
    """The JSON answers of a chat and the lines on standard error."""
    result = program("--json", "-n", "6", *args, stdin="".join(line + "\n" for line in lines).encode())
    assert result.returncode == status, result
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr.decode().splitlines()


def news(answer):
    """All but times and memory."""
    return {name: answer[name] for name in NEWS}


def asked_at_once(program, model, turns, pictures=(), system=None):
    """turns: question, answer, question, ...; <image> in a question stands for the next picture."""
    text = "<|im_start|>" + (f"System: {system}<end_of_utterance>\n" if system else "")
    for question, answer in zip(turns[::2], [*turns[1::2], None]):
        text += f"User:{'' if question.startswith('<image>') else ' '}{question}<end_of_utterance>\nAssistant:"
        if answer is not None:
            text += f" {answer.rstrip(' ' + chr(10))}<end_of_utterance>\n"
    images = [word for picture in pictures for word in ("-i", picture)]
    return json.loads(program.good(model, text, "--raw", "--special", "--json", "-n", "6", *images))


def check_same(answer, once):
    for name in ("prompt_tokens", "tokens", "logits_sha256"):
        assert answer[name] == once[name]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another picture of the same size, so that its place in a prompt has the same ids."""
    path = tmp_path_factory.mktemp("other") / "other.ppm"
    path.write_bytes(ppm(60, 60, seed=3))
    return path


# ---- commands ----

COMMANDS = "/image /video /system /drop /reset /save /load /stats /help /quit"


def test_help_and_what_is_no_command(program, tiny):
    said = program(tiny, stdin=b"/help\n").stderr.decode()
    assert re.findall(r"^/\w+", said, re.M) == COMMANDS.split()
    answers, said = chat(program, tiny, status=1, lines=[
        "/helo", "/etc/passwd what is it?", "/", "/image", "/save ", "/quit now", "/reset all", "/image\tnone.png", " /quit"])
    assert len(answers) == 1  # the last one begins with a space
    assert said == [f"smol: {name} is no command; there are {COMMANDS}" for name in ("/helo", "/etc/passwd", "/")] + [
        "smol: it is /image FILE", "smol: it is /save FILE", "smol: it is /quit alone", "smol: it is /reset alone",
        "smol: none.png: No such file or directory"]


def test_reset(program, tiny, picture, other):
    """What follows is a new conversation, with the same system prompt; pictures of the same size are not taken for each other."""
    answers, _ = chat(program, tiny, "-s", "Be kind.", lines=[
        f"/image {picture}", "What is it?", "/reset", f"/image {other}", "/reset", f"/image {other}", "What is it?", "And?"])
    fresh, _ = chat(program, tiny, "-s", "Be kind.", lines=[f"/image {other}", "What is it?", "And?"])
    assert [news(a) for a in answers[1:]] == [news(a) for a in fresh]
    assert answers[0]["logits_sha256"] != fresh[0]["logits_sha256"]
    assert answers[1]["timings"]["reused_tokens"] > 5, "the system prompt is kept"


def test_system(program, tiny, picture):
    (one, two, three), said = chat(program, tiny, lines=[
        f"/image {picture}", "What is it?", "/system Be short.", "Why?", "/system", "/system", "Why?"])
    assert said[1:] == ["the system prompt is set", "there is no system prompt", "there is no system prompt"]
    check_same(one, asked_at_once(program, tiny, ["<image>What is it?"], [picture]))
    turns = ["<image>What is it?", one["text"], "Why?"]
    check_same(two, asked_at_once(program, tiny, turns, [picture], "Be short."))
    check_same(three, asked_at_once(program, tiny, [*turns, two["text"], "Why?"], [picture]))
    (answer,), _ = chat(program, tiny, "-s", "Be long.", lines=["/system Be short.", "Why?"])
    check_same(answer, asked_at_once(program, tiny, ["Why?"], system="Be short."))


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_drop(program, tiny, picture, other, tmp_path, system):
    video = tmp_path / "video"
    video.mkdir()
    for i in range(3):
        (video / f"{i}.ppm").write_bytes(ppm(30, 40, seed=i + 5))
    answers, said = chat(program, tiny, *(["-s", system] if system else []), "--fps", "1", status=1, lines=[
        "/drop", f"/image {picture}", "One?", f"/video {video}", "Two?", f"/image {other}", "Is it a dog?",
        "/drop", "Four?", "/drop", "Five?", "/drop", "/drop", "/drop", "/drop", "Six?"])
    texts = [a["text"] for a in answers]
    nothing, done = "smol: there is no question to drop", "the oldest question is forgotten"
    assert [line for line in said if line in (nothing, done)] == [nothing] + [done] * 5 + [nothing]
    turns = ["<image>Is it a dog?", texts[2], "Four?", texts[3], "Five?"]
    check_same(answers[4], asked_at_once(program, tiny, turns, [other], system))
    check_same(answers[5], asked_at_once(program, tiny, ["Six?"], system=system))
    assert [len(a["tiles"]) for a in answers] == [1, 1, 2, 1, 1, 0]
    assert [a["video"] and a["video"]["frames"] for a in answers] == [None, 3, 3, 3, None, None]


def test_stats(program, tiny, picture):
    answers, said = chat(program, tiny, lines=["/stats", f"/image {picture}", "What is it?", "/stats"])
    used = len(answers[0]["prompt_tokens"]) + 5
    assert said[0] == "context 0 of 1024 tokens, 1024 left | messages 0, pictures 0, videos 0"
    assert re.fullmatch(r"load .* \| pictures 17 tiles .* \| answer 6 tokens .*/s", said[3])
    assert said[5] == f"context {used} of 1024 tokens, {1024 - used} left | messages 2, pictures 1, videos 0"
    assert re.fullmatch(r"memory: engine [\d.]+ MB, largest picture [\d.]+ MB, model [\d.]+ MB mapped, peak [\d.]+ MB", said[6])


def test_long_lines(plain, tmp_path_factory):
    """Tens of kilobytes in one line."""
    model = make_model(tmp_path_factory.mktemp("roomy"), max_positions=32768, n_layers=1)
    text = "word and word " * 2900
    assert len(text) > 40000
    (answer, after), said = chat(plain, model, "-c", 32768, "-n", 2, lines=[text, "Why?"])
    check_same(answer, json.loads(plain.good(model, text, "-c", 32768, "-n", 2, "--json")))
    assert after["timings"]["reused_tokens"] >= len(answer["prompt_tokens"]) > 5000 and said == []


# ---- the end of the context ----

def test_the_end_of_the_context_is_said_once_before_it_comes(program, tiny):
    n_prompt = len(chat(program, tiny, lines=["hi"])[0][0]["prompt_tokens"])
    for n, context, wanted in ((6, 1024, 0), (6, n_prompt + 10, 1), (150, 400, 0), (380, 400, 1)):
        answers, said = chat(program, tiny, "-n", n, "-c", context, lines=["hi"])
        assert len(said) == wanted, (n, context)
    # Said before the first answer, as that may be cut off; again after /drop and /reset.
    answers, said = chat(program, tiny, "-n", 100, "-c", n_prompt + 40, "-t", "1", lines=["hi", "/reset", "hi"])
    notice = f"40 of the context's {n_prompt + 40} tokens are left: /drop forgets the oldest question, /reset the conversation"
    cut = "the context is full, so the answer is cut off: /drop forgets the oldest question, /reset the conversation"
    assert said == [notice, cut, "the conversation is forgotten", notice, cut]
    assert [a["finish"] for a in answers] == ["context"] * 2


def test_drop_makes_room(program, tiny):
    """Questions until the context is full: one dropped, the next one fits."""
    lines = ["one two three"] * 6
    full, said = chat(program, tiny, "-c", "60", lines=lines, status=1)
    answers, _ = chat(program, tiny, "-c", "60", lines=lines[:len(full)] + ["/drop", "/drop"] + lines[:1])
    assert len(answers) == len(full) + 1


# ---- /save and /load ----

@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """Keys and values in half precision."""
    import subprocess
    import sys
    from conftest import ROOT
    import tiny_model
    folder = tmp_path_factory.mktemp("q8")
    tiny_model.make_folder(folder / "hf", seed=3)
    subprocess.run([sys.executable, os.path.join(ROOT, "export", "export.py"), folder / "hf", "-o", folder / "model.smol",
                    "--type", "q8", "--quiet"], check=True)
    return folder / "model.smol"


@pytest.mark.parametrize("kind", ["f32", "q8"])
def test_a_loaded_conversation_goes_on_as_if_it_had_never_stopped(program, tiny, quantised, picture, other, tmp_path, kind):
    """With pictures, a video, a system prompt and a seed; the second half in another process, with other threads, kernel and
    context, and twice."""
    model = {"f32": tiny, "q8": quantised}[kind]
    video, path = tmp_path / "video", tmp_path / "kept.talk"
    video.mkdir()
    for i in range(3):
        (video / f"{i}.ppm").write_bytes(ppm(30, 40, seed=i + 5))
    args = [model, "-s", "Be kind.", "--fps", "1", "-t", "1.3", "--seed", "5"]
    begin = [f"/image {picture}", f"/image {other}", "What is it?", f"/video {video}", "And this?", "So?"]
    end = ["Tell me more.", f"/image {picture}", "And this?", "Why?"]
    whole, _ = chat(program, *args, lines=begin + end)
    first, said = chat(program, *args, lines=[*begin, f"/save {path}", f"/save {path}", *end])
    assert [news(a) for a in first] == [news(a) for a in whole], "to save changes nothing"
    n = len(first[2]["prompt_tokens"]) + len(first[2]["tokens"]) - (first[2]["finish"] != "stop")
    assert said[3:5] == [f"{path}: 7 messages, {n} tokens"] * 2
    kernels = program.good("--kernels").decode().split()
    for more in ([], ["-j", 3, "--kernel", kernels[-1], "-c", 1000, "--seed", 77]):
        again, said = chat(program, model, "-t", "1.3", *more, lines=["Something else?", f"/load {path}", *end])
        assert said[0] == f"{path}: 7 messages, {n} tokens"
        assert [news(a) for a in again[1:]] == [news(a) for a in whole[3:]]
        assert [a["timings"]["reused_tokens"] for a in again[1:]] == [a["timings"]["reused_tokens"] for a in whole[3:]]
    assert os.listdir(tmp_path / "video") and not (tmp_path / "kept.talk.tmp").exists()


def test_pictures_of_a_loaded_conversation(program, tiny, picture, other, tmp_path):
    """What the model saw of them is kept, they themselves are not: what would need them is refused, and leaves all as it was."""
    path = tmp_path / "a.talk"
    begin, end = [f"/image {picture}", "What is it?", "One?"], [f"/image {other}", "Two?", "Is it a dog?"]
    whole, _ = chat(program, tiny, lines=begin + end)
    chat(program, tiny, lines=[*begin, f"/save {path}"])
    gone = "smol: the pictures of a loaded conversation cannot be looked at again: only /reset drops them"
    again, said = chat(program, tiny, status=1, lines=[f"/load {path}", "/system Be kind.", *end, "/drop", "/drop", "/reset", "hi"])
    assert [news(a) for a in again[:2]] == [news(a) for a in whole[2:]]
    assert [line for line in said if line.startswith("smol")] == [gone]
    check_same(again[2], asked_at_once(program, tiny, ["hi"]))
    _, said = chat(program, tiny, status=1, lines=[f"/load {path}", "/system", f"/image {other}", f"/save {path}"])
    assert [line for line in said if line.startswith("smol")] == [
        gone, f"smol: {path}: there are pictures that the model has not seen yet: ask a question first"]


def test_keys_and_values_of_8_bits_are_kept(program, tiny, tmp_path):
    path, lines = tmp_path / "a.talk", ["One?", "Two?"]
    whole, _ = chat(program, tiny, "--kv-int8", lines=lines)
    chat(program, tiny, "--kv-int8", lines=[lines[0], f"/save {path}"])
    again, _ = chat(program, tiny, "--kv-int8", lines=[f"/load {path}", lines[1]])
    assert news(again[0]) == news(whole[1])


@pytest.fixture
def kept(plain, tiny, picture, tmp_path):
    path = tmp_path / "kept.talk"
    chat(plain, tiny, lines=["Who?", f"/image {picture}", "What is it?", f"/save {path}"])
    return path


def signed(content):
    """With a checksum that fits."""
    return content + hashlib.sha256(content).digest()


def test_load_refuses(program, tiny, quantised, kept, tmp_path):
    """One line that says why; the conversation goes on as it was."""
    content = kept.read_bytes()
    body = content[:-32]
    text = tmp_path / "text"
    text.write_bytes(b"no conversation\n" * 100)
    cases = [(f"/load {tmp_path}/none", "No such file"), (f"/load {tmp_path}", "Is a directory"), (f"/load {text}", "is no saved conversation"),
             (f"/load {tiny}", "is no saved conversation")]
    damaged = {"cut off or damaged": [content[:-1], content[:200], content + b"\0", content[:900] + b"x" + content[901:], body],
               "is cut off": [content[:50], content[:8]], "is no saved conversation": [b"", content[:7]],
               "has version 2 of the format, this program reads version 1": [signed(content[:8] + b"\2" + body[9:])],
               "was saved with another model": [signed(body[:20] + b"xx" + body[22:])],
               "was saved with, or without, --kv-int8": [signed(body[:12] + b"\1" + body[13:])],
               "is damaged": [signed(body[:-1]), signed(body + b"\0"), signed(body[:56] + b"\xff" * 4 + body[60:])]}
    for part, contents in damaged.items():
        for bytes_ in contents:
            path = tmp_path / f"{len(cases)}.talk"
            path.write_bytes(bytes_)
            cases.append((f"/load {path}", part))
    answers, said = chat(program, tiny, status=1, lines=["Who?", *[line for line, _ in cases], "Why?"])
    assert len(said) == len(cases)
    for line, (command, part) in zip(said, cases):
        assert line.startswith(f"smol: {command[6:]}: ") and part in line, line
    good, _ = chat(program, tiny, lines=["Who?", "Why?"])
    assert [news(a) for a in answers] == [news(a) for a in good]
    _, said = chat(program, quantised, status=1, lines=[f"/load {kept}"])
    assert said == [f"smol: {kept}: was saved with another model"]
    _, said = chat(program, tiny, "-c", 50, status=1, lines=[f"/load {kept}"])
    assert re.fullmatch(rf"smol: {kept}: holds \d+ tokens, and the context 50: start with a larger -c", said[0])
    n = int(re.search(r"holds (\d+)", said[0])[1])
    _, said = chat(program, tiny, "--kv-int8", status=1, lines=[f"/load {kept}"])
    assert said == [f"smol: {kept}: was saved with, or without, --kv-int8: start the chat in the same way"]
    _, said = chat(program, tiny, "-c", n, lines=[f"/load {kept}"])
    assert said == [f"{kept}: 4 messages, {n} tokens"]


def test_load_survives_anything(sanitized, tiny, kept, tmp_path):
    """Files with random damage and a checksum that fits: refused, or taken and talked with."""
    body, random_ = kept.read_bytes()[:-32], random.Random(1)
    head = body.index(b"What is it?") + 100  # all the numbers that are not keys or values
    lines = []
    for i in range(400):
        damaged = bytearray(body)
        for _ in range(random_.choice((1, 1, 1, 4))):
            at = random_.randrange(48, head)
            damaged[at] = random_.choice((0, 1, 2, 0x7f, 0x80, 0xff, random_.randrange(256)))
        path = tmp_path / f"{i}.talk"
        path.write_bytes(signed(bytes(damaged)))
        lines += [f"/load {path}", "Why?"]
    answers, said = chat(sanitized, tiny, "-n", 1, status=1, lines=lines)
    loaded = sum(bool(re.search(r": \d+ messages, \d+ tokens$", line)) for line in said)
    refused = sum("is damaged: what it says cannot be" in line for line in said)
    assert loaded > 20 and refused > 100 and loaded + refused == 400


def test_save_refuses(program, tiny, picture, tmp_path):
    """Other files are never written over, and a disk that is full leaves what was there."""
    text, old = tmp_path / "text", tmp_path / "old.talk"
    text.write_bytes(b"a letter")
    chat(program, tiny, lines=["Who?", f"/save {old}"])
    before = old.read_bytes()
    _, said = chat(program, tiny, status=1, lines=[
        f"/save {text}", f"/save {tmp_path}", f"/save {tmp_path}/none/a.talk", f"/image {picture}", f"/save {old}"])
    exists = "is there already, and no saved conversation: choose another name"
    assert said == [f"smol: {text}: {exists}", f"smol: {tmp_path}: {exists}", f"smol: {tmp_path}/none/a.talk: No such file or directory",
                    f"{picture}: 17 tiles, 68 image tokens",
                    f"smol: {old}: there are pictures that the model has not seen yet: ask a question first"]
    for name in ("old.talk", "new.talk"):
        result = program(tiny, "-n", "3", stdin=f"hi\n/save {tmp_path / name}\n".encode(),
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
        assert result.returncode == 1 and result.stderr.decode() == f"smol: {tmp_path / name}: File too large\n"
    assert text.read_bytes() == b"a letter" and old.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["old.talk", "text"]


# ---- in a terminal ----

class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, program, *args):
        import pty
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(program.path, program.command(args), {**program.env, "TERM": "xterm"})
        self.got = b""

    def until(self, text, seconds=60):
        """What came before the text, without it."""
        end = time.monotonic() + seconds
        while text not in self.got:
            assert select.select([self.fd], [], [], max(end - time.monotonic(), 0))[0], (text, self.got)
            self.got += os.read(self.fd, 1 << 16)
        before, self.got = self.got.split(text, 1)
        return before

    def type(self, text):
        while text:
            text = text[os.write(self.fd, text[:1000]):]
            if text:
                self.got += os.read(self.fd, 1 << 16)  # the echo, or both sides would wait

    def end(self):
        """The status, and whether the terminal is as it was."""
        import termios
        while True:
            try:
                self.got += os.read(self.fd, 1 << 16)
            except OSError:  # how Linux tells the end
                break
        flags = termios.tcgetattr(self.fd)[3]
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), bool(flags & termios.ICANON and flags & termios.ECHO)




def questions(path):
    """The texts of the user's messages in a saved conversation without pictures."""
    content, at, texts = path.read_bytes(), 56 + 4 + 4 + 8, []
    n = struct.unpack_from("<I", content, 64)[0]
    for _ in range(n):
        role, _, _, n_text = struct.unpack_from("<4I", content, at)
        texts += [content[at + 16:at + 16 + n_text].decode()] if role == 1 else []
        at += 16 + n_text
    return texts


@pytest.mark.parametrize("typed, wanted", [
    (b"hello\n", "hello"), (b"  two  words \n", "  two  words "), (b"helk\x7flo\n", "hello"), (b"a \xe6\x97\xa5\xc3\xa9\x7f\x7fb\n", "a b"),
    (b"nonsense\x15good\n", "good"), (b"one two  \x17three\n", "one three"), (b"\x7f\x7f\x17\x15x\x04\n", "x"),
    (b"up\x1b[A\x1b[1;5C\x1bOPdown\n", "updown"), (b"\x1b[200~one\rtwo\n\nthree\n\x1b[201~\n", "one\ntwo\n\nthree"),
    (b"say: \x1b[200~/quit\n/drop\x1b[201~!\n", "say: /quit\n/drop!"), (b"\x1b[200~/quit\n/drop\x1b[201~\n", "/quit\n/drop"),
    (b"word and word " * 2000 + b"\n", "word and word " * 2000)], ids=lambda x: repr(x)[:24] if isinstance(x, bytes) else "")
def test_typing_and_pasting(plain, big, tmp_path, typed, wanted):
    path = tmp_path / "a.talk"
    terminal = Terminal(plain, str(big), "-n", "1", "-c", "8192")
    terminal.until(b"> ")
    terminal.type(typed)
    terminal.until(b"> ")
    terminal.type(f"/save {path}\n".encode())
    terminal.until(b"messages, ")
    terminal.type(b"\x04")
    assert terminal.end() == (0, True)
    assert questions(path) == [wanted]


def test_several_lines_at_once(plain, tiny, tmp_path):
    """A terminal that does not mark its pastes: each line is a question."""
    terminal = Terminal(plain, str(tiny), "-n", "3")
    path = tmp_path / "a.talk"
    terminal.type(f"one\ntwo\nthree\n/save {path}\n/quit\n".encode())
    assert terminal.end() == (0, True)
    assert questions(path) == ["one", "two", "three"]


def test_the_terminal_after_an_interrupt(plain, slow):
    terminal = Terminal(plain, str(slow), "-n", "4000", "-t", "1.5")
    terminal.until(b"> ")
    terminal.type(b"hi\n")
    terminal.until(b"hi\r\n")
    time.sleep(0.3)
    terminal.type(b"\x03")
    terminal.until(b"\n> ")
    terminal.type(b"half a line\x03")
    assert terminal.end() == (130, True)
