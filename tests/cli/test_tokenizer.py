import gzip
import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from subquadratic.cli.main import main
from subquadratic.cli.tokenizer import _Progress
from subquadratic.data import load_tokenizer

TEXT = "the quick brown fox jumps over the lazy dog, héllo wörld\n" * 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "b.jsonl").write_text('{"text": "brown dogs and <|eos|> 日本語"}\n')
    return tmp_path


def train(data: Path, out: Path, *more: str) -> int:
    return main(["tokenizer", "train", "--data", str(data), "--out", str(out), *more])


def test_a_trained_tokenizer_writes_every_text_and_says_what_it_is(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "deeper"
    assert train(data, out, "--vocab_size", "300") == 0
    said = capsys.readouterr()
    assert "300 tokens" in said.out and "bytes per token" in said.out and said.err == ""
    tokenizer = load_tokenizer(out)
    assert tokenizer.vocab_size == 300
    assert [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token] == [0, 1, 2, 3]
    for text in (TEXT, "<|eos|> 😀\0\t", "ČÅ"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    assert sorted(path.name for path in out.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_the_same_text_gives_the_same_file_in_every_process(data: Path, tmp_path: Path) -> None:
    words = ["tokenizer", "train", "--data", str(data / "a.txt.gz"), "--vocab_size", "400", "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    subprocess.run([sys.executable, "-m", "subquadratic", *words, str(tmp_path / "two")], check=True, capture_output=True)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


def test_what_it_says_to_do_next_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "my rows.jsonl", tmp_path / "my tokenizer"
    data.write_text('{"body": "brown dogs and quick foxes"}\n' * 9)
    assert train(data, out, "--text", "body") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("continue"))
    assert shlex.split(said)[1:] == ["subq", "train", "--tokenizer", str(out), "--data", str(data), "--text", "body"]


def test_a_little_text_gives_fewer_tokens_and_says_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data / "b.jsonl", tmp_path / "out") == 0
    assert "the text has no more; 8,192 were asked" in capsys.readouterr().out


def test_what_is_there_is_not_overwritten_unasked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert train(data, out, "--vocab_size", "270") == 0
    before = (out / "tokenizer.json").read_bytes()
    assert train(data, out, "--vocab_size", "280") == 2
    assert "is not empty" in capsys.readouterr().err
    assert (out / "tokenizer.json").read_bytes() == before
    assert train(data, out, "--vocab_size", "280", "--overwrite") == 0
    assert load_tokenizer(out).vocab_size == 280


def test_show(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(data, tmp_path / "out", "--vocab_size", "300")
    capsys.readouterr()
    assert main(["tokenizer", "show", str(tmp_path / "out"), "--text", "the 日"]) == 0
    said = capsys.readouterr().out
    assert "300 tokens" in said and "'the'" in said and "b'\\xe6'" in said and "for 7 bytes" in said
    assert main(["tokenizer", "show", "bytes"]) == 0
    assert "260 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian'; choose from train, show; did you mean train?"),
        (["train"], "--out is missing"),
        (["train", "--out", "{out}", "--vocab_size", "100"], "vocab_size must be from 260"),
        (["train", "--out", "{out}", "--vocab_size", "many"], "--vocab_size must be an integer"),
        (["train", "--out", "{out}", "--dat", "x"], "did you mean --data?"),
        (["train", "--out", "{out}", "--data", "none"], "no such file or folder: none"),
        (["train", "--out", "{out}", "--data", "{folder}/bad.txt"], "bad.txt is not UTF-8 at byte 3"),
        (["train", "--out", "{out}", "--data", "{folder}/empty.txt"], "empty.txt holds no text"),
        (["train", "--out", "{out}", "--data", "{folder}/bad.jsonl"], "bad.jsonl:1 is not valid JSON"),
        (["train", "--out", "{out}", "--data", "{folder}/rows.jsonl", "--text", "txt"], "did you mean --text text?"),
        (["train", "--out", "{folder}/bad.txt"], "bad.txt is a file; name a folder"),
        (["train", "--out", "{folder}/bad.txt/x"], "bad.txt is a file"),
        (["show", "{out}"], "no such file or folder"),
        (["show"], "TOKENIZER is missing"),
        (["show", "{folder}/bad.jsonl"], "not valid JSON"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"bad.txt": b"caf\xe9", "empty.txt": b" ", "bad.jsonl": b"{\n", "rows.jsonl": b'{"text": "a"}\n'}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert main(["tokenizer", *(word.format(out=tmp_path / "out", folder=tmp_path) for word in arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and message in said.err and said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_full_disk_is_one_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert train(data, tmp_path / "out") == 1
    assert "out: cannot write" in (said := capsys.readouterr().err) and "No space left on device" in said
    assert not (tmp_path / "out").exists()


def test_progress_is_one_line_on_a_terminal_and_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for error, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", error)
        progress = _Progress()
        progress(1_000_000, 3_000_000)
        progress(3_000_000, 3_000_000)
        progress.clear()
        assert ("read 3 of 3 MB" in error.getvalue()) == expected
        assert "\n" not in error.getvalue()


def test_help_needs_no_heavy_package() -> None:
    code = (
        "import sys; from subquadratic.cli.main import main;"
        "main(['tokenizer', '--help']), main(['tokenizer', 'train', '--help']);"
        "print('HEAVY', *({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].split() == ["HEAVY"] and "--vocab_size" in said
