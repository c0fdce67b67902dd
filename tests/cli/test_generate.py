"""`subq generate` as a user meets it: every form of prompt and of output, and one clear line for whatever is wrong."""

import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import subquadratic as sq
from subquadratic.cli import generate
from subquadratic.cli.generate import gather
from subquadratic.cli.generate_options import GenerateOptions
from subquadratic.cli.main import main
from subquadratic.cli.text_io import PICTURES, Output, to_bytes
from subquadratic.data import ByteTokenizer

SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of saved models, one of each kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    performer, encoder = sq.PerformerConfig(**SMALL), sq.TransformerConfig(**SMALL, causal=False)
    sq.LanguageModel(performer, vocab_size=260).save_pretrained(folder / "causal")
    sq.LanguageModel(performer, vocab_size=260, max_length=12).save_pretrained(folder / "short")
    sq.LanguageModel(performer, vocab_size=256).save_pretrained(folder / "endless")  # it knows no end of a document
    sq.LanguageModel(performer, vocab_size=100).save_pretrained(folder / "ascii")
    sq.LanguageModel(encoder, vocab_size=260).save_pretrained(folder / "masked")
    sq.SequenceClassifier(performer, vocab_size=260, num_classes=2).save_pretrained(folder / "classifier")
    decoder = sq.PerformerConfig(**SMALL, cross_attention=True)
    sq.EncoderDecoder(encoder, decoder, vocab_size=260, max_length=20).save_pretrained(folder / "pairs")
    return folder


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def text_of(tokens: list[int]) -> bytes:
    """What a terminal shows of these new tokens."""
    tokens = tokens[: tokens.index(258)] if 258 in tokens else tokens
    return BYTES.decode(tokens).encode()


def greedy(runs: Path, prompt: bytes, count: int, name: str = "causal") -> list[int]:
    lm = sq.LanguageModel.from_pretrained(runs / name)
    return lm.generate(torch.tensor([list(prompt)]), max_new_tokens=count, temperature=0.0)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("how", ["prompt", "file", "pipe"])
def test_greedy_text_is_what_the_model_gives(
    runs: Path, tmp_path: Path, how: str, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_bytes("aé\n\r\n".encode())
    feed(monkeypatch, "aé\n\n".encode())
    prompt = {"prompt": ["--prompt", "aé\n"], "file": ["--prompt_file", str(tmp_path / "prompt.txt")], "pipe": ["--prompt", "-"]}[how]
    assert main(["generate", str(runs / "causal"), *prompt, "--max_new_tokens", "6", "--temperature", "0"]) == 0
    before = "aé\n".encode()
    assert capsysbinary.readouterr().out == before + text_of(greedy(runs, before, 6)) + b"\n"


def test_weights_in_8_bits(runs: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    held = sq.load(runs / "causal", quantize="int8")
    held.save_pretrained(tmp_path / "small")
    wanted = held.generate(torch.tensor([list(b"ab")]), max_new_tokens=6, temperature=0.0)[0, 2:].tolist()
    for argv in ([str(runs / "causal"), "--quantize", "int8"], [str(tmp_path / "small")]):
        assert main(["generate", *argv, "--prompt", "ab", "--max_new_tokens", "6", "--temperature", "0"]) == 0
        assert capsysbinary.readouterr().out == b"ab" + text_of(wanted) + b"\n"
    assert main(["generate", str(runs / "causal"), "--prompt", "ab", "--quantize", "int4"]) == 2
    assert b"int8" in capsysbinary.readouterr().err


def test_without_a_prompt_it_begins_a_document(runs: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["generate", str(runs / "causal"), "--max_new_tokens", "6", "--temperature", "0"]) == 0
    lm = sq.LanguageModel.from_pretrained(runs / "causal")
    tokens = lm.generate(torch.tensor([[258]]), max_new_tokens=6, temperature=0.0)[0, 1:].tolist()
    assert capsysbinary.readouterr().out == text_of(tokens) + b"\n"


def test_characters_of_several_bytes_appear_whole(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    text, output = "naïve — 漢字 🙂", Output()
    for byte in text.encode() + b"\xf0\x9f":
        output.write(bytes([byte]))
        assert "\ufffd" not in (seen := capsysbinary.readouterr().out.decode("utf-8"))
        assert seen in text
    output.end()
    assert capsysbinary.readouterr().out.decode() == "\ufffd\n"


def test_bytes_that_are_no_text_come_through_the_command_line() -> None:
    assert to_bytes(os.fsdecode(b"a\xff\xfe\xc3\xa9")) == b"a\xff\xfe\xc3\xa9"
    assert to_bytes("\ud800x") == b"?x"


def test_a_terminal_gets_no_control_characters() -> None:
    assert "a\x1b[2J\r\n\t\x7f\x9b".translate(PICTURES) == "a␛[2J␍\n\t␡\ufffd"


def test_samples_in_json_are_those_of_the_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "ab", "--max_new_tokens", "5", "--samples", "3", "--seed", "7", "--temperature", "1"]
    assert main(["generate", str(runs / "causal"), *options, "--format", "json", "--log_probs"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lm = sq.LanguageModel.from_pretrained(runs / "causal")
    tokens, scores = lm.generate(
        torch.tensor([list(b"ab")]),
        max_new_tokens=5,
        samples=3,
        eos_token=258,
        pad_token=256,
        return_log_probs=True,
        generator=torch.Generator().manual_seed(7),
    )
    assert [line["sample"] for line in lines] == [1, 2, 3]
    for line, row, score in zip(lines, tokens[:, 2:].tolist(), scores, strict=True):
        assert line["prompt"] == "ab"
        assert [item["token"] for item in line["log_probs"]] == row[: line["tokens"]]
        assert line["text"].encode() == text_of(row)
        assert line["log_prob"] == pytest.approx(float(score.sum()), abs=1e-4)
        assert line["end"] == ("eos" if 258 in row else "length")
    assert main(["generate", str(runs / "causal"), *options]) == 0
    shown = capsys.readouterr().out
    for number, line in enumerate(lines):
        assert f"===== sample {number + 1} of 3\nab{line['text']}\n" in shown


def test_log_probabilities_line_by_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(runs / "causal"), "--prompt", "ab", "--max_new_tokens", "8", "--seed", "3", "--log_probs"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 1 <= len(lines) <= 8
    for line in lines:
        assert line["log_prob"] < 0
        data = bytes(line["bytes"]) if "bytes" in line else line["text"].encode()
        assert data == BYTES.decode_bytes([line["token"]])


def test_stop_texts_are_cut_off(runs: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    new = text_of(greedy(runs, b"ab", 30))
    stop = next(new[place : place + 1] for place in range(5, 30) if 32 < new[place] < 127 and new[place : place + 1] not in new[:place])
    options = ["--prompt", "ab", "--max_new_tokens", "30", "--temperature", "0"]
    assert main(["generate", str(runs / "causal"), *options, "--stop", "no such text", "--stop", stop.decode(), "--echo", "false"]) == 0
    assert capsysbinary.readouterr().out == new[: new.index(stop)] + b"\n"
    assert main(["generate", str(runs / "causal"), *options, "--format", "json", "--stop", stop.decode()]) == 0
    assert json.loads(capsysbinary.readouterr().out)["end"] == "stop"


def test_stop_is_gathered_and_unescaped() -> None:
    argv = ["run", "--stop", "a,b", "--seed", "1", "--stop=--x", "--stop", "[1]"]
    assert gather("stop", argv) == ["run", '--stop=["a,b", "--x", "[1]"]', "--seed", "1"]
    assert gather("stop", ["run", "--stop"]) == ["run", "--stop"]
    assert GenerateOptions(run="", stop=["\\n\\n", "\\\\n", "\\d", "é\t"]).stops == [b"\n\n", b"\\n", b"\\d", "é\t".encode()]


def test_options_may_stand_in_a_file(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text("prompt: ab\nmax_new_tokens: 5\nseed: 1\nstop: [x, y]\nformat: json\n")
    assert main(["generate", str(runs / "causal"), "--config", str(tmp_path / "options.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "ab"


def test_an_encoder_decoder_writes_the_target_of_its_prompt(runs: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["generate", str(runs / "pairs"), "--prompt", "source", "--max_new_tokens", "6", "--temperature", "0"]) == 0
    model = sq.EncoderDecoder.from_pretrained(runs / "pairs")
    tokens = model.generate(torch.tensor([list(b"source")]), torch.tensor([[257]]), max_new_tokens=6, temperature=0.0)[0, 1:].tolist()
    assert capsysbinary.readouterr().out == text_of(tokens) + b"\n"
    assert main(["generate", str(runs / "pairs"), "--prompt", "source", "--max_new_tokens", "6", "--format", "json"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["prompt"] == "source"


def test_the_text_of_a_bounded_model_ends_where_it_must(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(runs / "short"), "--prompt", "abc", "--format", "json", "--seed", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 10


BAD = [
    (["missing"], "run: no such folder"),
    (["."], "holds no model (config.json and model.safetensors missing)"),
    (["masked"], "only a causal one can continue a text; use subq fill"),
    (["classifier"], "is a classifier"),
    (["pairs"], "prompt is missing: it is the source text"),
    (["pairs", "--prompt", "x" * 21], "max_length is 20"),
    (["pairs", "--prompt", "x", "--max_new_tokens", "21"], "max_new_tokens must be at most 20"),
    (["short", "--prompt", "x" * 13], "the prompt has 13 tokens, but this model reads at most max_length=12"),
    (["short", "--prompt", "abc", "--max_new_tokens", "11"], "max_new_tokens must be at most 10 after a prompt of 3 tokens"),
    (["ascii", "--prompt", "abz"], "prompt: the text has the token 122 ('z'), but the model knows 100 tokens"),
    (["causal", "--prompt_file", "/no/such/file"], "prompt_file: cannot read /no/such/file: No such file"),
    (["causal", "--prompt_file", "."], "prompt_file: cannot read ."),
    (["causal", "--prompt", "-"], "prompt: standard input is empty"),
    (["causal", "--prompt", "a", "--prompt_file", "b"], "give one of them"),
    (["causal", "--max_new_tokens", "0"], "max_new_tokens must be at least 1, got 0"),
    (["causal", "--samples", "0"], "samples must be at least 1, got 0"),
    (["causal", "--seed", "-1"], "seed must be from 0"),
    (["causal", "--temperature", "-1"], "temperature must be at least 0"),
    (["causal", "--temperature", "nan"], "temperature must be a number, got 'nan'"),
    (["causal", "--top_k", "0"], "top_k must be an integer of at least 1"),
    (["causal", "--top_p", "2"], "top_p must be greater than 0 and at most 1"),
    (["causal", "--min_p", "2"], "min_p must be at least 0 and at most 1"),
    (["causal", "--repetition_penalty", "0"], "repetition_penalty must be greater than 0"),
    (["causal", "--repetition_window", "0"], "repetition_window must be an integer of at least 1"),
    (["causal", "--stop", ""], "stop must be texts of at least one character"),
    (["causal", "--stop"], "--stop needs a value"),
    (["causal", "--format", "xml"], "--format must be one of text, json"),
    (["causal", "--promt", "x"], "did you mean --prompt?"),
    (["causal", "--interactive", "--samples", "2"], "interactive shows one text at a time"),
    (["causal", "--interactive", "--prompt", "-"], "interactive reads standard input line by line"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv)[:40] for argv, _ in BAD])
def test_bad_input_is_one_clear_line(
    runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"")
    assert main(["generate", str(runs / argv[0]), *argv[1:]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("subq generate: ")
    assert message in err


def damage(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    content = json.loads(config.read_text())
    if how == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "weights of nothing":
        weights.write_bytes(b"")
    elif how == "weights of another model":
        shutil.copy(folder.parent / "masked" / "model.safetensors", weights)
    elif how == "config cut short":
        config.write_text(config.read_text()[:50])
    elif how == "config is a list":
        config.write_text("[]")
    elif how == "config of binary":
        config.write_bytes(b"\xff\xfe\x00")
    else:
        changes = {
            "another format": {"format": 99},
            "another class": {"class": "Diffusion"},
            "unknown field": {"config": content["config"] | {"wings": 2}},
            "no vocabulary": {"vocab_size": None},
            "text for a number": {"vocab_size": "many"},
            "no config": {"config": 3},
            "too large": {"vocab_size": 10**13},
            "unknown converted": {"class": "compat.Nothing"},
        }
        config.write_text(json.dumps(content | changes[how]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("weights cut short", "damaged or cut short"),
        ("weights of nothing", "damaged or cut short"),
        ("weights of another model", "does not fit"),
        ("config cut short", "not valid JSON"),
        ("config is a list", "not the configuration of a subquadratic model"),
        ("config of binary", "not valid JSON"),
        ("another format", "another format than 1"),
        ("another class", "describes a Diffusion"),
        ("unknown field", "no field 'wings'"),
        ("no vocabulary", "cannot be loaded"),
        ("text for a number", "vocab_size must be an integer"),
        ("no config", "cannot be loaded"),
        ("too large", "cannot be loaded"),
        ("unknown converted", "cannot be loaded"),
    ],
)
def test_a_damaged_model_is_one_clear_line(runs: Path, tmp_path: Path, how: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "causal", tmp_path / "run")
    shutil.copytree(runs / "masked", tmp_path / "masked")
    damage(tmp_path / "run", how)
    assert main(["generate", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert len(err) < 900


def test_a_conversation_is_one_text_read_once(
    runs: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = sq.LanguageModel.from_pretrained(runs / "causal")
    seen, shown = b"", []
    for typed in (b"hello", b"", "né".encode()):
        seen += typed if not seen or not typed or seen.endswith(b"\n") else b"\n" + typed
        tokens = lm.generate(torch.tensor([list(seen)]), max_new_tokens=4, temperature=0.0)[0, len(seen) :].tolist()
        assert not {256, 257, 258, 259} & set(tokens), "choose another model"
        seen += bytes(tokens)
        shown.append(text_of(tokens) + b"\n")
    feed(monkeypatch, "hello\n\nné\r\n/quit\nnot read".encode())
    assert main(["generate", str(runs / "causal"), "--interactive", "--max_new_tokens", "4", "--temperature", "0"]) == 0
    assert capsysbinary.readouterr().out == b"".join(shown)


def test_a_conversation_goes_on_after_a_bad_line_and_ends_when_full(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"abz\nabc\n")
    assert main(["generate", str(runs / "ascii"), "--interactive", "--max_new_tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert "token 122 ('z')" in err
    assert out.endswith("\n")
    feed(monkeypatch, b"abc\n" * 9)
    assert main(["generate", str(runs / "short"), "--interactive", "--max_new_tokens", "4", "--seed", "1"]) == 1
    assert "max_length=12" in capsys.readouterr().err
    # The last text is whole, though a stop text might have begun in it: 12 tokens are read, and one more is written.
    feed(monkeypatch, b"abc\n")
    options = ["--interactive", "--max_new_tokens", "40", "--temperature", "0", "--stop", "".join(map(chr, range(65, 128)))]
    assert main(["generate", str(runs / "short"), *options]) == 1
    tokens = greedy(runs, b"abc", 10, "short")
    assert 258 not in tokens, "choose another model"
    assert capsys.readouterr().out.encode() == text_of(tokens) + b"\n"


def test_lines_to_an_encoder_decoder_are_sources(
    runs: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [str(runs / "pairs"), "--max_new_tokens", "4", "--temperature", "0"]
    for source in ("one", "two"):
        assert main(["generate", *options, "--prompt", source]) == 0
    expected = capsysbinary.readouterr().out
    feed(monkeypatch, b"one\n\ntwo")
    assert main(["generate", *options, "--interactive"]) == 0
    assert capsysbinary.readouterr().out == expected


def test_ctrl_c_in_a_conversation_ends_the_text_only(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from subquadratic.generation import Decoding

    choose, calls = Decoding.choose_only, iter(range(100))

    def interrupted(self: Decoding) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return choose(self)

    monkeypatch.setattr(Decoding, "choose_only", interrupted)
    feed(monkeypatch, b"one\ntwo\n")
    assert main(["generate", str(runs / "causal"), "--interactive", "--max_new_tokens", "3", "--seed", "1"]) == 0
    assert next(calls) == 6  # two, the interrupt, then three of the second line


def test_ctrl_c_keeps_what_was_written(runs: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(*_: Any) -> Any:
        yield torch.tensor([65]), torch.tensor([-1.0])
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "start", steps)
    assert main(["generate", str(runs / "causal"), "--prompt", "x"]) == 130
    assert capsysbinary.readouterr().out == b"xA\n"
    assert main(["generate", str(runs / "causal"), "--prompt", "x", "--format", "json"]) == 130
    assert json.loads(capsysbinary.readouterr().out)["end"] == "interrupted"


def command(*argv: object) -> list[str]:
    return [sys.executable, "-m", "subquadratic", *map(str, argv)]


@pytest.mark.parametrize("name", ["causal", "pairs"])
def test_more_samples_than_memory_holds_are_refused(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(runs / name), "--prompt", "a", "--samples", "99999999999"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("subq generate: samples: 99,999,999,999 at once need more than") and said.count("\n") == 1


def test_a_reader_that_leaves_and_a_full_disk(runs: Path) -> None:
    argv = command("generate", runs / "endless", "--prompt", "x", "--max_new_tokens", "1000000")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(10)[:1] == b"x"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command("generate", runs / "causal"), stdout=full, stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 1
        assert done.stderr == b"subq generate: cannot write to standard output: No space left on device\n"


def test_ctrl_c_on_a_terminal(runs: Path) -> None:
    """A real terminal: text as it is written, then Ctrl-C."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    argv = command("generate", runs / "endless", "--prompt", "héllo", "--max_new_tokens", "1000000")
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in a shell's background inherit that it is ignored
    process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env={**os.environ, "LC_ALL": "C"}, preexec_fn=heed)
    os.close(child)
    seen = b""
    while len(seen) < 100:
        seen += os.read(parent, 1000)
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            seen += os.read(parent, 1000)
        except OSError:  # the terminal's other end is closed
            break
    assert process.wait(timeout=60) == 130
    os.close(parent)
    text = re.sub(r"\r\x1b\[K(loading the model)?", "", seen.decode("utf-8"))  # a line while one waits, and its end
    lines = text.splitlines()
    assert lines[0].startswith("héllo")
    assert "tokens/s" in lines[-1]
    assert "Traceback" not in text
    assert not any(ord(letter) < 32 for line in lines for letter in line if letter != "\t")


def test_a_model_of_a_task_writes_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sq.LanguageModel(sq.FastformerConfig(dim=8, depth=1, heads=1), vocab_size=260).save_pretrained(tmp_path)
    (tmp_path / "run.yaml").write_text("task: recall\n")
    assert main(["generate", str(tmp_path), "--prompt", "abc"]) == 2
    assert "learned the task recall, whose tokens are not text; measure it with subq evaluate" in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text("{")  # not what generation needs
    assert main(["generate", str(tmp_path), "--prompt", "abc", "--max_new_tokens", "1"]) == 0


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 50)
    assert main(["tokenizer", "train", "--data", str(tmp_path / "text.txt"), "--vocab_size", "300", "--out", str(tmp_path / "words")]) == 0
    sq.LanguageModel(sq.FastformerConfig(dim=8, depth=1, heads=1), vocab_size=260).save_pretrained(tmp_path / "words")
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "words"), "--prompt", "a"]) == 2
    assert "the model in" in (said := capsys.readouterr().err) and "knows 260: give the one it was trained with" in said
