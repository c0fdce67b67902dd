"""Other data to validate on: all of the data is trained on, all of the other validated on, and the run is measured again on the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subquadratic.cli.main import main
from subquadratic.data import Binning, IntegerTokenizer, NumberTokenizer, load_corpus, load_examples, load_tokenizer


def test_a_text_is_trained_on_whole_and_validated_on_another(text: Path, tmp_path: Path, run: Any, capsys: Any) -> None:
    other = tmp_path / "held.txt"
    other.write_text("while fox:\n    jump(fox)\n" * 20)
    corpus = load_corpus(text, validation=other)
    assert bytes(corpus.train.astype("u1")) == text.read_bytes() and bytes(corpus.validation.astype("u1")) == other.read_bytes()
    assert corpus.digest not in (load_corpus(text).digest, load_corpus(other, validation=text).digest)

    result = run(tmp_path / "run", validation_data=str(other))
    assert result.score.predicted in (len(corpus.validation), len(corpus.validation) - 1)
    assert main(["evaluate", str(tmp_path / "run"), "--context", "32", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data"]["digest"] == corpus.digest and report["notes"] == []
    assert report["score"]["loss"] == pytest.approx(result.score.loss, rel=1e-5)
    assert main(["evaluate", str(tmp_path / "run"), "--context", "32", "--quiet", "--out", str(tmp_path / "score.json")]) == 0
    assert capsys.readouterr() == ("", "")
    written = json.loads((tmp_path / "score.json").read_text())
    assert written["data"] == report["data"] and written["score"]["loss"] == report["score"]["loss"]
    assert main(["evaluate", str(tmp_path / "run"), "--quiet"]) == 2
    assert "quiet prints nothing: name a file for the score" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(text)]) == 0
    assert "this is what it was trained on, all of it" in " ".join(capsys.readouterr().out.split())


def test_files_of_a_folder_are_all_on_their_side(tmp_path: Path) -> None:
    for side in ("train", "held"):
        (tmp_path / side).mkdir()
        for number in range(30):
            (tmp_path / side / f"{number}.txt").write_text(f"{side} {number} " * 5)
    corpus = load_corpus(tmp_path / "train", validation=tmp_path / "held", cache=tmp_path / "cache")
    assert corpus.documents == (30, 30) and corpus.split == "as given"
    assert b"held" not in bytes(corpus.train.astype("u1")) and b"train" not in bytes(corpus.validation.astype("u1"))


def test_bins_are_those_of_the_numbers_trained_on(tmp_path: Path, run: Any, capsys: Any) -> None:
    trained, held = np.sin(np.arange(600) / 7), 5 + np.sin(np.arange(200) / 7)
    np.save(tmp_path / "train.npy", trained)
    held.astype("<f4").tofile(tmp_path / "held.bin")
    sides = {"data": str(tmp_path / "train.npy"), "validation_data": str(tmp_path / "held.bin"), "dtype": "float32", "bins": 8}
    result = run(tmp_path / "run", **sides)
    bins = load_tokenizer(tmp_path / "run")
    assert isinstance(bins, NumberTokenizer) and (bins.lowest, bins.highest) == (trained.min(), trained.max())
    assert bins.digest == Binning(bins=8).fit(trained).digest
    corpus = load_corpus(sides["data"], validation=sides["validation_data"], dtype="float32", tokenizer=bins)
    assert (len(corpus.train), len(corpus.validation)) == (600, 200) and set(corpus.validation[:]) == {7}  # above all of them

    assert main(["evaluate", str(tmp_path / "run"), "--context", "32", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data"]["digest"] == corpus.digest and report["notes"] == []
    assert report["score"]["loss"] == pytest.approx(result.score.loss, rel=1e-5)
    assert report["score"]["forecast"]["count"] == 199 and report["score"]["forecast"]["outside"] == 1


def test_integers_are_validated_on_others(tmp_path: Path, run: Any) -> None:
    np.save(tmp_path / "train.npy", np.arange(600) % 7)
    (tmp_path / "held.jsonl").write_text("[1, 2, 3, 4]\n" * 20)
    sides = {"data": str(tmp_path / "train.npy"), "validation_data": str(tmp_path / "held.jsonl"), "tokens": 7}
    result = run(tmp_path / "run", **sides)
    assert result.score.predicted in range(80, 100)
    (tmp_path / "held.jsonl").write_text("[1, 2, 9, 4]\n" * 20)
    with pytest.raises(ValueError, match=r"validation_data: tokens: .*held.jsonl.* holds 9 at position 2"):
        load_corpus(sides["data"], validation=sides["validation_data"], tokenizer=IntegerTokenizer(7))
    with pytest.raises(ValueError, match="column is for rows of tables"):
        load_corpus(sides["data"], validation=sides["data"], column="notes", tokenizer=IntegerTokenizer(7))


@pytest.mark.parametrize("fasta", ["train", "held"])
def test_records_of_one_side_lose_their_headers(fasta: str, tmp_path: Path) -> None:
    places = {side: tmp_path / f"{side}.{'fa' if side == fasta else 'txt'}" for side in ("train", "held")}
    for side, place in places.items():
        place.write_text(">one\nACGT\nACGT\n>two\nTT\n" if side == fasta else "ACGT\n")
    corpus = load_corpus(places["train"], validation=places["held"], headers=False)
    found = {"train": corpus.train, "held": corpus.validation}[fasta]
    assert corpus.tokenizer.decode(found) == "ACGTACGTTT" and "their headers left out" in corpus.describe()


@pytest.mark.parametrize("kind", ["label", "target"])
def test_rows_are_trained_on_whole_and_validated_on_others(kind: str, tmp_path: Path, run: Any, capsys: Any) -> None:
    for name, count in (("train", 40), ("held", 12)):
        rows = "".join(f"{name} day {i},{'good' if i % 2 else 'bad'}\n" for i in range(count))
        (tmp_path / f"{name}.csv").write_text(f"text,{kind}\n{rows}")
    sides = {"data": str(tmp_path / "train.csv"), "validation_data": str(tmp_path / "held.csv"), kind: kind}
    examples = load_examples(sides["data"], validation=sides["validation_data"], **{kind: kind})  # type: ignore[arg-type]
    assert (len(examples.train), len(examples.validation)) == (40, 12)
    run(tmp_path / "run", model="transformer", context=None, **sides)
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data"]["rows"] == 12 and report["data"]["digest"] == examples.digest


def test_a_class_that_is_not_trained_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "held.csv").write_text("text,label\na,0\nb,2\n")
    with pytest.raises(ValueError, match=r"validation_data: label: .*held.csv.* has '2', and no row that is trained on; these have 0, 1"):
        load_examples(tmp_path / "train.csv", validation=tmp_path / "held.csv", label="label")
    passed = load_examples(tmp_path / "train.csv", validation=tmp_path / "held.csv", label="label", skip_bad_rows=True)
    assert len(passed.validation) == 1 and "1 bad row" in passed.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_data": "missing.txt"}, r"validation_data: .*missing.txt"),
        ({"task": "copy", "validation_data": "x"}, "validation_data is not for --task"),
    ],
)
def test_what_cannot_be_validated_on_is_told(options: dict[str, Any], message: str, tmp_path: Path, run: Any) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_data_itself_is_refused(text: Path, tmp_path: Path, run: Any) -> None:
    with pytest.raises(ValueError, match="is what is trained on"):
        run(tmp_path / "run", validation_data=str(text))
