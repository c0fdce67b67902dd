"""`subq predict` as a user meets it: rows of every kind in, classes and targets out in their order; and with bad input."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.data.tokenizers.bytes import ByteTokenizer
from subquadratic.evaluation import predict

SIZES: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
BYTES = ByteTokenizer()
TEXTS = [f"{'zk#~'[i % 4] * (3 + 7 * i % 13)} {i}" for i in range(40)]
NAMES = ("bad", "good", "fair")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    classifier = sq.TransformerConfig(**SIZES, causal=False)
    model = sq.SequenceClassifier(classifier, vocab_size=260, labels=NAMES)
    with torch.no_grad():
        model.head.weight.mul_(20)
    model.save_pretrained(folder / "classes")
    (folder / "classes" / "run.yaml").write_text(yaml.safe_dump({"text": "body", "label": "stars", "data": "gone.csv"}))
    sq.SequenceClassifier(classifier, vocab_size=260, num_classes=2, max_length=5).save_pretrained(folder / "nameless")
    decoder = sq.PerformerConfig(**SIZES, cross_attention=True)
    sq.EncoderDecoder(classifier, decoder, vocab_size=260).save_pretrained(folder / "pairs")
    sq.LanguageModel(sq.PerformerConfig(**SIZES), vocab_size=260).save_pretrained(folder / "text")
    return folder


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def to_tsv(rows: list[dict[str, Any]]) -> bytes:
    return to_csv(rows).replace(b",", b"\t")


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def to_array(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows).encode()


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))

    written = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), written)
    return written.getvalue()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "new.csv": to_csv,
    "new.tsv": to_tsv,
    "new.jsonl": to_jsonl,
    "new.json": to_array,
    "new.parquet": to_parquet,
    "new.csv.gz": lambda rows: gzip.compress(to_csv(rows)),
}


def predicted(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert main(["predict", *argv]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def by_hand(folder: Path, text: str) -> list[float]:
    model = sq.SequenceClassifier.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor([list(text.encode())])).softmax(-1)[0].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_rows_in_their_order(runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(KINDS[name]([{"id": i, "body": text} for i, text in enumerate(TEXTS)]))
    found = predicted(capsys, str(runs / "classes"), "--data", str(tmp_path / name), "--carry", "id", "--batch_size", "4")
    assert [int(line["id"]) for line in found] == list(range(40))
    assert len({line["predicted"] for line in found}) > 1, "else the order would not show"
    for line, text in zip(found, TEXTS, strict=True):
        shares = dict(zip(NAMES, by_hand(runs / "classes", text), strict=True))
        assert line["probabilities"] == pytest.approx(shares, abs=1e-5)
        assert line["predicted"] == max(shares, key=shares.__getitem__) == next(iter(line["probabilities"]))
        assert line["probability"] == max(line["probabilities"].values())


@pytest.mark.parametrize("convert", [to_csv, to_tsv, to_jsonl, to_array, lambda rows: gzip.compress(to_jsonl(rows))])
def test_rows_that_are_piped_in(
    runs: Path, convert: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(convert([{"body": text, "x": "y"} for text in TEXTS]))))
    found = predicted(capsys, str(runs / "classes"), "--data", "-", "--carry", "*")
    assert [(line["body"], line["x"]) for line in found] == [(text, "y") for text in TEXTS]


def test_a_pool_at_a_time(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.jsonl").write_bytes(to_jsonl([{"body": text} for text in TEXTS]))
    argv = (str(runs / "classes"), "--data", str(tmp_path / "new.jsonl"), "--batch_size", "3")
    whole = predicted(capsys, *argv)
    monkeypatch.setattr(predict, "POOL_BATCHES", 2)
    monkeypatch.setattr(predict, "READ_AT_ONCE", 2)
    monkeypatch.setattr(predict, "BATCH_TOKENS", 40)
    pieces = predicted(capsys, *argv)
    assert [line["predicted"] for line in pieces] == [line["predicted"] for line in whole]
    for one, other in zip(pieces, whole, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_rows_without_text_keep_their_place(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text("id,body\n1,some text\n2,\n3,other text\n")
    assert main(["predict", str(runs / "classes"), "--data", str(tmp_path / "new.csv"), "--carry", "id"]) == 0
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert found[1] == {"id": "2", "predicted": None, "probability": None, "probabilities": None}
    assert found[2]["predicted"] in NAMES
    assert "nothing is predicted: 1 of 3 rows" in printed.err
    assert main(["predict", str(runs / "classes"), "--data", str(tmp_path / "new.csv"), "--carry", "id", "--quiet"]) == 0
    assert capsys.readouterr() == (printed.out, "")


def test_numbers_that_json_has_no_word_for_are_null(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.jsonl").write_text('{"body": "aab", "id": NaN}\n{"body": "aab", "id": [Infinity, 1]}\n')
    assert main(["predict", str(runs / "classes"), "--data", str(tmp_path / "new.jsonl"), "--carry", "id"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["id"] for line in lines] == [None, [None, 1]]


def test_names_with_spaces_around_them(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text("id, body\n1, some text\n")
    found = predicted(capsys, str(runs / "classes"), "--data", str(tmp_path / "new.csv"), "--carry", "*")
    assert found[0]["id"] == "1" and found[0]["body"] == " some text" and found[0]["predicted"] in NAMES


def test_no_rows_through_a_pipe(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["predict", str(runs / "classes"), "--data", "-"]) == 2
    assert capsys.readouterr().err == "subq predict: data: standard input is empty\n"


def test_csv_out_is_whole_and_replaces_nothing_unasked(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.csv").write_text('id,body\n1,some text\n2,"other ""text"", two"\n')
    out = tmp_path / "out.csv"
    argv = ["predict", str(runs / "classes"), "--data", str(tmp_path / "new.csv"), "--out", str(out)]
    assert main([*argv, "--carry", "body,id"]) == 0
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["body", "id", "predicted", "probability", *(f"probability_{name}" for name in NAMES)]
    assert rows[1]["body"] == 'other "text", two'
    assert sum(float(rows[1][f"probability_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-5)
    assert main([*argv[:-1], str(tmp_path / "out.tsv"), "--carry", "body"]) == 0
    assert [row["body"] for row in csv.DictReader((tmp_path / "out.tsv").open(), delimiter="\t")] == ["some text", 'other "text", two']
    (tmp_path / "out.tsv").unlink()
    assert main(argv) == 2 and "exists; name another file, or give --overwrite" in capsys.readouterr().err
    assert main([*argv, "--overwrite", "--top_k", "2"]) == 0
    assert out.read_text().splitlines()[0] == "predicted,probability,predicted_2,probability_2"
    before = out.read_bytes()
    (tmp_path / "new.csv").write_text("id,body\n1,some text\n2\n")
    assert main([*argv, "--overwrite"]) == 2
    assert out.read_bytes() == before and [file.name for file in sorted(tmp_path.iterdir())] == ["new.csv", "out.csv"]
    assert main([*argv, "--overwrite", "--skip_bad_rows"]) == 0
    assert "1 bad row" in capsys.readouterr().err and len(out.read_text().splitlines()) == 2


def test_targets_of_an_encoder_decoder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [text for text in TEXTS[:9] if text]
    (tmp_path / "new.jsonl").write_bytes(to_jsonl([{"text": text} for text in texts]))
    argv = (str(runs / "pairs"), "--data", str(tmp_path / "new.jsonl"), "--max_new_tokens", "6")
    model = sq.EncoderDecoder.from_pretrained(runs / "pairs")
    for line, text in zip(predicted(capsys, *argv), texts, strict=True):
        tokens, scores = model.generate(
            torch.tensor([list(text.encode())]),
            torch.tensor([[BYTES.bos_token]]),
            max_new_tokens=6,
            temperature=0.0,
            eos_token=BYTES.eos_token,
            return_log_probs=True,
        )
        written = tokens[0, 1:].tolist()
        written = written[: written.index(BYTES.eos_token)] if BYTES.eos_token in written else written
        assert line["predicted"] == BYTES.decode(written)
        assert line["log_prob"] == pytest.approx(float(scores.sum()), abs=1e-3)


def test_what_is_longer_than_the_model_reads_is_cut_and_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.jsonl").write_bytes(to_jsonl([{"text": "abcdefgh"}, {"text": "abc"}, {"text": "abcde"}]))
    assert main(["predict", str(runs / "nameless"), "--data", str(tmp_path / "new.jsonl")]) == 0
    printed = capsys.readouterr()
    assert "cut to 5 tokens, the most that the model reads: 1 of 3 rows" in printed.err
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert found[0] == found[2]
    assert set(found[0]["probabilities"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("text", [], "is a LanguageModel, and classes and targets come from"),
        ("classes", ["--max_new_tokens", "3"], "max_new_tokens is for an EncoderDecoder"),
        ("pairs", ["--top_k", "3"], "top_k is for a SequenceClassifier"),
        ("classes", ["--text", "boby"], "no field 'boby'.*did you mean --text body"),
        ("classes", ["--carry", "if"], "no field 'if'.* did you mean --carry id\\?\n"),
        ("classes", ["--carry", "nope"], "name the one that holds the carry with --carry\n"),
        ("classes", ["--carry", ""], "carry must be comma-separated names of columns"),
        ("classes", ["--carry", "predicted"], "has the name of what is predicted"),
        ("classes", ["--overwrite"], "overwrite is for --out"),
        ("classes", ["--batch_size", "0"], "batch_size must be at least 1"),
        ("classes", ["--out", "new.csv", "--overwrite"], "out: new.csv is the data"),
        ("classes", ["--out", "new.parquet"], "out must name a .jsonl, .ndjson, .json, .csv or .tsv file, got 'new.parquet'"),
        ("classes", ["--out", "new.csv.gz"], "out must name a .jsonl"),
        ("classes", ["--out", "new", "--format", "csv"], "out must name a .jsonl"),
    ],
)
def test_what_cannot_be_done_is_said(
    runs: Path, tmp_path: Path, name: str, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text("id,body,text,predicted\n1,some text,more,x\n")
    assert main(["predict", str(runs / name), "--data", "new.csv", *argv]) == 2
    assert re.search(message, capsys.readouterr().err)
