"""How data are read, through every verb that reads any."""

import io
import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from subquadratic.cli.main import main

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--context", "16", "--max_steps", "1", "--evaluations", "0", "--batch_size", "2"]
TEXT = b"some words of a text\n" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUBQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "good.txt").write_bytes(TEXT)
    assert train(folder / "good.txt", folder / "run") == 0
    return folder / "run"


def train(data: Path, out: Path, *more: str, model: str = "performer") -> int:
    return main(["train", "--model", model, "--data", str(data), "--out", str(out), *SMALL, *more])


def write_mixed(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.txt").write_bytes(TEXT)
    (folder / "b.bin").write_bytes(b"\0\1")
    (folder / "c.npy").write_bytes(b"\x93NUMPY\1\0")
    (folder / "d.txt").write_text("text", encoding="utf-16")
    (folder / "e.txt").write_text("")
    return folder


def test_what_is_passed_over_is_said_by_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, said = write_mixed(tmp_path / "data"), "skipped: 2 binary, 1 UTF-16, 1 empty"
    assert train(data, tmp_path / "run", "--dry_run") == 0
    assert said in capsys.readouterr().out
    assert train(data, tmp_path / "run") == 0
    assert said in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["corpus"]
    assert facts["passed_over"]["binary"] == {"count": 2, "first": ["b.bin", "c.npy"]}
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert said in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(data), "--format", "json"]) == 0
    assert said in json.loads(capsys.readouterr().out)["notes"]
    assert main(["tokenizer", "train", "--data", str(data), "--out", str(tmp_path / "tokenizer"), "--vocab_size", "270"]) == 0
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("a.npy", b"\x93NUMPY\1\0", [], "looks like a NumPy array"),
        ("a.txt", "text".encode("utf-16"), [], "looks like UTF-16"),
        ("a.txt", TEXT, ["--text", "body"], "leave --text out"),
        ("a.txt", TEXT, ["--quotes", "none"], "quotes is for rows of .csv and .tsv"),
        ("a.txt", TEXT, ["--skip_bad_rows"], "skip_bad_rows is for rows"),
        ("a.jsonl", b'{"text": "a"}\n{\n', [], "--skip_bad_rows leaves such rows out"),
    ],
)
def test_the_same_is_refused_by_every_verb(
    tmp_path: Path, trained: Path, name: str, content: bytes, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    data = ["--data", str(tmp_path / name), *flags]
    out = ["--out", str(tmp_path / "out")]
    for argv in (["train", *SMALL, *data, *out], ["evaluate", str(trained), *data], ["tokenizer", "train", *data, *out]):
        capsys.readouterr()
        assert main(argv) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_are_read_by_evaluate_as_they_were_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("body\tlabel\n" + "".join(f'"row {i}"\t{i % 2}\n' for i in range(40)) + "a\tb\tc\n\t1\n", encoding="utf-8")
    flags = ["--text", "body", "--label", "label", "--quotes", "none", "--skip_bad_rows"]
    assert main(["train", "--data", str(path), "--out", str(tmp_path / "run"), *[*SMALL[:6], *SMALL[8:]], *flags]) == 0
    out = capsys.readouterr().out
    assert "at most 8 tokens" in out and "skipped: 1 bad row (rows.tsv:42)" in out and "rows without text left out: 1" in out
    for more in ([], ["--data", str(path)]):  # its digest says that these are the rows it was trained on
        assert main(["evaluate", str(tmp_path / "run"), *more]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "validation side" in out
        assert "skipped: 1 bad row (rows.tsv:42)" in out and "rows without text left out: 1" in out
    other = "".join(json.dumps({"body": f"row {i}", "label": i % 2}) + "\n" for i in range(9))
    (tmp_path / "other.jsonl").write_text(other)
    for data in (str(tmp_path / "other.jsonl"), "-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(other.encode())))
        assert main(["evaluate", str(tmp_path / "run"), "--data", data]) == 0  # quotes mean nothing there
        assert "9 rows" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(path), "--skip_bad_rows", "false"]) == 2
    assert "has 3 columns" in capsys.readouterr().err


def test_a_model_of_a_named_field_can_be_measured_on_a_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text("".join(json.dumps({"body": f"some words {i}"}) + "\n" for i in range(60)))
    assert train(tmp_path / "rows.json", tmp_path / "run", "--text", "body") == 0
    (tmp_path / "book.txt").write_bytes(TEXT)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "book.txt")]) == 0
    assert "840 tokens" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "book.txt"), "--text", "body"]) == 2
    assert "leave --text out" in capsys.readouterr().err


def test_a_model_of_bytes_reads_bytes_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 8)
    assert train(tmp_path / "a.bin", tmp_path / "run", "--binary") == 0
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["binary"] is True
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "a.bin"), "--binary", "false"]) == 2
    assert "NUL byte" in capsys.readouterr().err
    prompt = "ab\r\n\0c".encode("utf-16")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompt)))
    assert main(["generate", str(tmp_path / "run"), "--prompt", "-", "--max_new_tokens", "1"]) == 0


@pytest.mark.parametrize("verb", ["generate", "fill"])
def test_prompts_are_read_as_texts_are(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    causal = ["--causal", "false"] if verb == "fill" else []
    assert train(tmp_path / "a.txt", tmp_path / "run", *causal) == 0
    words = ["fill", str(tmp_path / "run"), "-"] if verb == "fill" else ["generate", str(tmp_path / "run"), "--prompt", "-"]

    def given(data: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsys.readouterr()
        status = main([*words, "--seed", "1"])
        return status, *capsys.readouterr()

    for end in ("\r", "\r\n"):
        assert given(f"\ufeffone{end}two [MASK]{end}".encode()) == given(b"one\ntwo [MASK]\n")
    status, _, said = given("one [MASK]".encode("utf-16"))
    assert status == 2 and "standard input looks like UTF-16: convert it" in said


def test_options_of_reading_are_not_for_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--text", "body"], ["--quotes", "none"], ["--skip_bad_rows"], ["--binary"]):
        assert main(["train", "--task", "recall", *flags]) == 2
        assert f"{flags[0][2:]} is not for --task" in capsys.readouterr().err
    assert main(["train", "--data", "rows.csv", "--label", "x", "--binary"]) == 2
    assert "binary reads bytes, and label names a column" in capsys.readouterr().err


def test_what_the_tokenizer_says_to_do_next_reads_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("body\tn\n" + "some words and more words\t1\n" * 9 + "bad\n")
    flags = ["--text", "body", "--quotes", "none", "--skip_bad_rows"]
    assert main(["tokenizer", "train", "--data", str(data), "--out", str(tmp_path / "t"), *flags]) == 0
    said = capsys.readouterr().out
    assert "skipped: 1 bad row (rows.tsv:11)" in said
    following = next(line for line in said.splitlines() if line.startswith("continue"))
    assert shlex.split(following)[-5:] == flags
