"""Integers and numbers from every kind of file, and what is said of those that cannot be read."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subquadratic.data import Binning, Corpus, IntegerTokenizer, load_corpus
from subquadratic.data.value_files import PIECE

NOTES = np.random.default_rng(0).integers(0, 100, 3000)


def integers(data: Any, **ways: Any) -> Corpus:
    return load_corpus(data, tokenizer=IntegerTokenizer(ways.pop("tokens", 100)), **ways)


def whole(corpus: Corpus) -> list[int]:
    return [*corpus.train[:].tolist(), *corpus.validation[:].tolist()]


def to_npy(path: Path) -> dict[str, Any]:
    np.save(path, NOTES.astype(">i2"))
    return {}


def to_raw(path: Path) -> dict[str, Any]:
    NOTES.astype("<u2").tofile(path)
    return {"dtype": "uint16"}


def to_lines(path: Path) -> dict[str, Any]:
    path.write_text("".join(f"{json.dumps({'note': int(note)})}\n" for note in NOTES))
    return {"column": "note"}


def to_list(path: Path) -> dict[str, Any]:
    path.write_text(json.dumps(NOTES.tolist()))
    return {}


def to_csv(path: Path) -> dict[str, Any]:
    path.write_text("time,note\n" + "".join(f"{i},{note}\n" for i, note in enumerate(NOTES)))
    return {"column": "note"}


def to_parquet(path: Path) -> dict[str, Any]:
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))

    parquet.write_table(pyarrow.table({"note": NOTES}), path)
    return {"column": "note"}


def to_text(path: Path) -> dict[str, Any]:
    path.write_text("\n".join(", ".join(map(str, NOTES[i : i + 10])) for i in range(0, len(NOTES), 10)))
    return {}


def to_gzip(path: Path) -> dict[str, Any]:
    path.write_bytes(gzip.compress(NOTES.astype("<u2").tobytes()))
    return {"dtype": "uint16"}


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a.npy": to_npy,
    "a.bin": to_raw,
    "a.jsonl": to_lines,
    "a.json": to_list,
    "a.csv": to_csv,
    "a.parquet": to_parquet,
    "a.txt": to_text,
    "a.bin.gz": to_gzip,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_sequence_is_the_same_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    ways = KINDS[name](tmp_path / name)
    corpus = integers(tmp_path / name, **ways)
    assert whole(corpus) == NOTES.tolist()
    assert (len(corpus.train), corpus.documents, corpus.train_bytes) == (2700, (1, 1), 0)
    again = load_corpus(tmp_path / name, tokenizer=Binning(bins=8), **ways)
    assert np.array_equal([*again.train.values, *again.validation.values], NOTES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, 2 * PIECE + 3])
def test_long_sequences_come_in_pieces(tmp_path: Path, size: int) -> None:
    long = np.arange(size) % 251
    np.save(tmp_path / "a.npy", long)
    (tmp_path / "a.txt").write_text(" ".join(map(str, long)))
    (tmp_path / "a.jsonl").write_text("\n".join(map(str, long)))
    for name in ("a.npy", "a.txt", "a.jsonl"):
        corpus = integers(tmp_path / name, tokens=251)
        assert np.array_equal(whole(corpus), long), name
        assert sum(corpus.documents) <= 2


@pytest.mark.parametrize("kind", ["rows of an array", "lists", "objects"])
def test_lists_are_documents_with_an_end_between(tmp_path: Path, kind: str) -> None:
    rows = NOTES.reshape(300, 10)
    np.save(tmp_path / "a.npy", rows)
    lines = [row.tolist() if kind == "lists" else {"id": 1, "tokens": row.tolist()} for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = integers(tmp_path / ("a.npy" if kind == "rows of an array" else "a.jsonl"))
    assert sum(corpus.documents) == 300 and corpus.split == "by document"
    assert [*corpus.train[:11]] == [*rows[0], corpus.tokenizer.eos_token]
    assert corpus.train_starts[:3].tolist() == [0, 11, 22]


def test_a_pipe_is_read_as_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = "\n".join(json.dumps(row) for row in NOTES.reshape(300, 10).tolist()).encode()
    written = " ".join(map(str, NOTES)).encode()
    for data, ways in ((written, {}), (NOTES.astype("<i4").tobytes(), {"dtype": "int32"}), (lists, {})):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        corpus = integers("-", **ways)
        assert sorted(token for token in whole(corpus) if token < 100) == sorted(NOTES)


def test_what_is_out_of_range_is_named_with_its_position(tmp_path: Path) -> None:
    wrong = NOTES.copy()
    wrong[2345] = 100
    np.save(tmp_path / "a.npy", wrong)
    (tmp_path / "a.jsonl").write_text("[1, 2]\n[3, -4]\n")
    with pytest.raises(ValueError, match=r"a\.npy holds 100 at position 2,345, and tokens must be from 0 to 99; --tokens"):
        integers(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.jsonl:2 holds -4 at position 1"):
        integers(tmp_path / "a.jsonl")


FLOATS = np.array([0.5, 1.5])


@pytest.mark.parametrize(
    ("name", "content", "ways", "message"),
    [
        ("a.npy", FLOATS, {}, "holds float64, and integers are wanted; for a series of numbers give --bins"),
        ("a.npy", np.zeros((2, 2, 2), int), {}, r"shape \(2, 2, 2\)"),
        ("a.npy", np.array([None]), {}, "is not an .npy file of numbers, or is damaged"),
        ("a.npy", b"\x93NUMPY", {}, "is not an .npy file of numbers, or is damaged"),
        ("a.bin", b"\1\2\3", {}, "dtype: .*a.bin does not say of what type"),
        ("a.bin", b"\1\2\3", {"dtype": "uint16"}, "3 bytes, not a whole number of uint16"),
        ("a.bin", b"\1\2\3", {"dtype": "u2"}, "dtype must be one of uint8"),
        ("a.txt", b"1 2 x3 4", {}, "holds 'x3' at position 2, which is not an integer"),
        ("a.txt", b"1 2.5", {}, "holds '2.5' at position 1, which is not an integer"),
        ("a.txt", b"", {}, "holds no values"),
        ("a.txt", b"1 2", {"column": "note"}, "column is for rows of tables"),
        ("a.txt", b"1 2", {"dtype": "uint8"}, "dtype is for .bin files"),
        ("a.md", b"1 2", {}, "none of the files that integers and numbers are read from"),
        ("a.csv", b"time,note\n1,2\n", {}, "no field 'tokens'; its fields are 'time', 'note'.*--column"),
        ("a.csv", b"note\n1\nx\n", {"column": "note"}, "a.csv:3 holds 'x'.*--skip_bad_rows"),
        ("a.jsonl", b"[1, 2]\n[1, 2.5]\n", {}, "a.jsonl:2 holds float64, and integers are wanted"),
        ("a.jsonl", b"[1, [2]]\n", {}, "a.jsonl:1 must hold a list of integers"),
        ("a.jsonl", b"[1]\n2\n", {}, "a.jsonl:2 holds a single value, and rows before it lists"),
        ("a.jsonl", b"2\n[1]\n", {}, "a.jsonl:2 holds a list, and rows before it single values"),
        ("a.jsonl", b"true\n", {}, "must hold an integer, got True"),
        ("a.json", b'{"tokens": 1\n', {}, "not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: Any, ways: dict[str, Any], message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        integers(tmp_path / name, **ways)


def test_missing_cells_and_bad_rows_are_counted(tmp_path: Path) -> None:
    cells = ["1.5", "", "NaN", "x", "2.5", "1,000"]
    (tmp_path / "a.csv").write_text("close\n" + "".join(f'"{cell}"\n' for cell in cells) + "3\n4\n" * 20)
    corpus = load_corpus(tmp_path / "a.csv", tokenizer=Binning(bins=4), column="close", skip_bad_rows=True)
    assert corpus.train.values[:5].tolist() == [1.5, 2.5, 1000.0, 3.0, 4.0]  # type: ignore[attr-defined]
    assert corpus.passed_over.counts == {"row without a value": 2, "bad row": 1}
    np.save(tmp_path / "a.npy", [1.0, -1e300])
    with pytest.raises(ValueError, match=r"holds -1e\+300 at position 1, and a series may hold numbers up to 1e\+150: divide"):
        load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=2))
    np.save(tmp_path / "a.npy", [1.0, np.inf])
    with pytest.raises(ValueError, match="holds inf at position 1, and a series may not hold NaN or infinity"):
        load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=2))


def series(path: Path, **ways: Any) -> tuple[list[float], Corpus]:
    corpus = load_corpus(path, tokenizer=Binning(bins=4), column="v", **ways)
    return [*corpus.train.values.tolist(), *corpus.validation.values.tolist()], corpus  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cells", "numbers", "told"),
    [
        (["50,02", "1.001,55", "-3", "1.001"], [50.02, 1001.55, -3, 1001], True),
        (["1.001", "7", "1.001,5", "2.000.000"], [1001, 7, 1001.5, 2e6], True),
        (["0.994", "1.001", "12"], [0.994, 1.001, 12], False),
        (["1,001.55", "2,000", "0.5"], [1001.55, 2000, 0.5], False),
        (["1.001", "2.002"], [1.001, 2.002], False),
    ],
)
def test_in_columns_separated_by_semicolons_a_comma_is_the_decimal_mark(
    tmp_path: Path, cells: list[str], numbers: list[float], told: bool
) -> None:
    (tmp_path / "a.csv").write_text("t;v\n" + "".join(f"1,5;{cell}\n" for cell in [*cells, *cells]))
    found, corpus = series(tmp_path / "a.csv")
    assert found == [*numbers, *numbers]
    assert ("a comma read as the decimal mark: a.csv" in corpus.passed_over.describe()) == told


@pytest.mark.parametrize(
    ("header", "column", "place"),
    [("t, v", "v", 1), ("t, v", " v", 1), ("t,v", "v", 1), (" t ; v ;w", "v", 1), ("v ,v", "v", 1), ("v ,v", "v ", 0)],
)
def test_spaces_around_the_names_of_columns_do_not_count(tmp_path: Path, header: str, column: str, place: int) -> None:
    separator = ";" if ";" in header else ","
    rows = [[str(10 * row + cell) for cell in range(header.count(separator) + 1)] for row in range(9)]
    (tmp_path / "a.csv").write_text("\n".join([header, *map(separator.join, rows)]))
    corpus = load_corpus(tmp_path / "a.csv", tokenizer=Binning(bins=4), column=column)
    assert [*corpus.train.values, *corpus.validation.values] == [10 * row + place for row in range(9)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("separator", "cells", "message"),
    [
        (";", ["50,02", "50.02"], r"a.csv:3 holds '50.02', in a column whose decimal mark is a comma"),
        (",", ["50,02"], r"a.csv:2 holds '50,02', whose comma does not separate thousands.*separate the columns by ;"),
        (",", ["1,001", "0,123"], r"a.csv:3 holds '0,123'"),
        (",", ["1.001,55"], r"a.csv:2 holds '1.001,55'"),
        (",", ["1_000"], r"a.csv:2 holds '1_000' at position 0, which is not a number"),
    ],
)
def test_what_a_comma_means_is_never_guessed(tmp_path: Path, separator: str, cells: list[str], message: str) -> None:
    (tmp_path / "a.csv").write_text(f"t{separator}v\n" + "".join(f'1{separator}"{cell}"\n' for cell in cells))
    with pytest.raises(ValueError, match=message):
        series(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.npy", "a.bin", "a.txt", "a.json", "a.jsonl", "a.csv", "a.parquet"])
def test_nan_is_a_missing_number_in_every_file(tmp_path: Path, name: str) -> None:
    numbers = np.array([np.nan, *np.arange(60.0), np.nan, np.nan])
    numbers[7] = np.nan
    spelled = [None if np.isnan(number) and place else number for place, number in enumerate(numbers.tolist())]
    if name == "a.parquet":
        pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(pyarrow.table({"values": numbers}), tmp_path / name)
    elif name == "a.npy":
        np.save(tmp_path / name, numbers)
    elif name == "a.bin":
        numbers.astype("<f4").tofile(tmp_path / name)
    else:
        lines = "\n".join(map(str, numbers))
        (tmp_path / name).write_text({"a.txt": lines, "a.csv": f"values\n{lines}"}.get(name, json.dumps(spelled)))
    corpus = load_corpus(tmp_path / name, tokenizer=Binning(bins=4), dtype="float32" if name == "a.bin" else None)
    found = [*corpus.train.values, *corpus.validation.values]  # type: ignore[attr-defined]
    assert found == [number for number in numbers if not np.isnan(number)] and sum(corpus.passed_over.counts.values()) == 4
    assert corpus.passed_over.describe() in ("skipped: 4 NaN", "skipped: 4 rows without a value")


def test_a_series_of_nothing_but_nan_is_none(tmp_path: Path) -> None:
    rows = np.arange(60.0).reshape(6, 10)
    rows[2], rows[3, :4] = np.nan, np.nan
    np.save(tmp_path / "a.npy", rows)
    corpus = load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=4))
    found = np.array([*corpus.train.values, *corpus.validation.values])  # type: ignore[attr-defined]
    assert sum(corpus.documents) == 5 and sorted(found[~np.isnan(found)]) == rows[~np.isnan(rows)].tolist()
    assert corpus.passed_over.describe() == "skipped: 14 NaN"
    np.save(tmp_path / "a.npy", np.full(9, np.nan))
    with pytest.raises(ValueError, match=r"holds no values \(skipped: 9 NaN\)"):
        load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=4))


def test_in_a_folder_files_without_values_are_passed_over(tmp_path: Path) -> None:
    for number in range(30):
        np.save(tmp_path / f"{number}.npy", NOTES[number * 100 : number * 100 + 100])
    (tmp_path / "notes.md").write_text("About these.")
    (tmp_path / "x.bin").write_bytes(b"\1")
    corpus = integers(tmp_path)
    assert sum(corpus.documents) == 30
    assert corpus.passed_over.counts == {"file without values": 2}


def test_large_files_go_through_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquadratic.data.corpus.MEMORY_VALUES", 100)
    np.save(tmp_path / "a.npy", NOTES)
    stored = integers(tmp_path / "a.npy", cache=tmp_path / "cache")
    assert isinstance(stored.train, np.memmap) and whole(stored) == NOTES.tolist()
    series = load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=8), cache=tmp_path / "cache")
    assert isinstance(series.train.values, np.memmap)  # type: ignore[attr-defined]
    assert series.digest == load_corpus(tmp_path / "a.npy", tokenizer=Binning(bins=8), cache=tmp_path / "cache").digest
