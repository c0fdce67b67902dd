import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tests.data.tokenizers_for_tests import bpe

from subquadratic.data import corpus as corpus_file
from subquadratic.data import load_corpus, load_examples
from subquadratic.data.documents import read_documents
from subquadratic.data.finding import find_source

TEXT = b"some words of a text\n" * 20
ROWS = [{"url": f"https://example.org/{i}", "body": f"This is document {i}. "} for i in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    files = {
        "a.txt": TEXT,
        "image.png": b"\x89PNG\0\xff",
        "tokens.npy": saved(np.arange(50)),
        "notes.txt": "notes".encode("utf-16"),
        "rows.csv": "text,n\nsix,1\n".encode("utf-16"),
        "blank.md": b" \n",
        "z.txt": TEXT,
        "table.csv": b"name,n\nseven,1\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "there").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    return tmp_path


class TestPassedOver:
    said = "skipped: 2 binary, 2 UTF-16, 1 empty, 1 repeated, 1 linked folder, 1 broken link; read as text: 1 without the column 'text'"

    @pytest.mark.parametrize("pattern", ["", "*"])
    def test_what_is_passed_over_is_said(self, mixed: Path, pattern: str) -> None:
        corpus = load_corpus(mixed / pattern)
        said = self.said if not pattern else self.said.replace(", 1 linked folder, 1 broken link", "")
        assert corpus.describe().endswith(f"; {said}")
        assert corpus.documents == (2, 2)
        assert corpus.passed_over.first["binary"] == ["image.png", "tokens.npy"]

    def test_a_store_that_is_used_again_says_the_same(self, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(corpus_file, "MEMORY_BYTES", 0)
        assert [load_corpus(mixed).passed_over.describe() for _ in range(2)] == [self.said] * 2

    def test_nothing_left_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.npy").write_bytes(saved(np.arange(3)))
        (tmp_path / "b.txt").write_text("")
        with pytest.raises(ValueError, match=r"holds no text \(skipped: 1 binary, 1 empty\)"):
            load_corpus(tmp_path)

    def test_the_standard_library_is_a_choice_of_ours(self) -> None:
        assert load_corpus().passed_over.counts == {}

    def test_a_zero_far_into_a_text_is_refused_with_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "a.log").write_bytes(TEXT * 2000 + b"\0" + TEXT)
        for data in (tmp_path, tmp_path / "a.log"):
            with pytest.raises(ValueError, match=r"a\.log is not text: it has a NUL byte at byte 840,000"):
                load_corpus(data)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (saved(np.arange(9)), r"looks like a NumPy array\) is not text: it has a NUL byte at byte \d.*--binary"),
            ("text".encode("utf-16"), r"looks like UTF-16\): convert it, as with iconv.*--binary"),
            ("text".encode("utf-16-le"), r"looks like UTF-16\): convert it"),
            (b"\0\1\2", r"NUL byte at byte 0.*--binary"),
        ],
    )
    def test_a_single_file_is_refused_with_the_way_out(self, tmp_path: Path, data: bytes, message: str, packed: bool) -> None:
        path = tmp_path / ("a.bin.gz" if packed else "a.bin")
        path.write_bytes(gzip.compress(data) if packed else data)
        with pytest.raises(ValueError, match=message):
            load_corpus(path)
        assert bytes([*(corpus := load_corpus(path, binary=True)).train, *corpus.validation]) == data

    def test_so_is_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for binary in (False, True):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\r\n\0" * 20)))
            if binary:
                assert load_corpus("-", binary=True).train_bytes == 90
            else:
                with pytest.raises(ValueError, match="standard input is not text"):
                    load_corpus("-")

    def test_binary_reads_a_folder_whole_and_only_as_bytes(self, mixed: Path) -> None:
        corpus = load_corpus(mixed, binary=True)
        assert sum(corpus.documents) // 2 == 6 and corpus.passed_over.describe().startswith("skipped: 1 empty, 1 repeated")
        with pytest.raises(ValueError, match="binary reads bytes as they are, and the tokenizer"):
            load_corpus(mixed, binary=True, tokenizer=bpe())
        with pytest.raises(ValueError, match="binary reads bytes, which have no fields"):
            load_corpus(mixed, binary=True, text="body")

    def test_tables_in_another_encoding_are_counted_too(self, tmp_path: Path) -> None:
        (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"row {i}\t{i % 2}\n" for i in range(40)))
        (tmp_path / "b.tsv").write_text("text\tlabel\na\t1\n", encoding="utf-16")
        (tmp_path / "c.jsonl").write_text('{"text": "a", "label": 1}\n', encoding="utf-16")
        (tmp_path / "README.md").write_text("what this is")
        said = load_examples(tmp_path, label="label").describe()
        assert said.endswith("; skipped: 1 UTF-16, 2 without the field 'text'")
        with pytest.raises(ValueError, match=r"b\.tsv is not UTF-8 at byte 0 \(it looks like UTF-16\): convert it"):
            load_examples(tmp_path / "b.tsv", label="label")


class TestNamedField:
    def names(self) -> dict[str, bytes]:
        array = json.dumps(ROWS, indent=1).encode()
        return {"a.jsonl": LINES, "a.json": LINES, "a.JSON.gz": gzip.compress(LINES), "b.json": array, "b.ndjson": LINES}

    def test_every_kind_of_json_gives_the_rows(self, tmp_path: Path) -> None:
        digests = set()
        for name, data in self.names().items():
            (tmp_path / name).write_bytes(data)
            digests.add(load_corpus(tmp_path / name, text="body").digest)
            examples = load_examples(tmp_path / name, text="body", target="url")
            assert len(examples.train) + len(examples.validation) == 50
        assert len(digests) == 1
        assert load_corpus(tmp_path / "a.json").split.startswith("by position")  # nobody named a field, and none is `text`
        (tmp_path / "t.json").write_bytes(LINES.replace(b'"body"', b'"text"'))
        assert load_corpus(tmp_path / "t.json").digest in digests

    def test_what_has_no_fields_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = {"a.txt": TEXT, "a.txt.gz": gzip.compress(TEXT), "a": TEXT, "config.json": json.dumps(ROWS[0], indent=2).encode()}
        for name, data in whole.items():
            (tmp_path / name).write_bytes(data)
        for data in [*(tmp_path / name for name in whole), tmp_path, f"{tmp_path}/*.txt", None, "stdlib"]:
            with pytest.raises(ValueError, match=r"^text: .* has no field 'body'.*leave --text out"):
                load_corpus(data, text="body")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
        with pytest.raises(ValueError, match="text: the header of standard input has no field 'body'"):
            load_corpus("-", text="body")

    def test_in_a_folder_rows_are_read_and_the_rest_is_said(self, tmp_path: Path) -> None:
        for name, data in {**self.names(), "README.md": TEXT, "package.json": b'{"name": 1}'}.items():
            (tmp_path / name).write_bytes(data)
        corpus = load_corpus(tmp_path, text="body")
        assert sum(corpus.documents) == 250 and corpus.split == "by row"
        assert corpus.describe().endswith("; skipped: 2 without the field 'body'")
        pattern = load_corpus(f"{tmp_path}/*.md", text="text")
        assert pattern.train_bytes > 0  # the usual name is no wish

    def test_json_rows_come_through_pipes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.jsonl").write_bytes(LINES)
        digest = load_corpus(tmp_path / "a.jsonl", text="body").digest
        for data in (LINES, gzip.compress(LINES), json.dumps(ROWS).encode()):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
            assert load_corpus("-", text="body").digest == digest
        os.mkfifo(tmp_path / "pipe.jsonl")
        threading.Thread(target=lambda: (tmp_path / "pipe.jsonl").write_bytes(LINES)).start()
        assert load_corpus(tmp_path / "pipe.jsonl", text="body").digest == digest
        os.mkfifo(tmp_path / "pipe.parquet")
        with pytest.raises(ValueError, match="parquet is not read from its beginning to its end"):
            load_corpus(tmp_path / "pipe.parquet", text="body")


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"])
def test_line_ends_do_not_matter(tmp_path: Path, end: bytes) -> None:
    lines = [b"text,label", *(b"row %d,%d" % (i, i % 2) for i in range(40))]
    files = {
        "a.csv": lines,
        "a.tsv": [line.replace(b",", b"\t") for line in lines],
        "a.jsonl": [json.dumps({"text": f"row {i}", "label": i % 2}).encode() for i in range(40)],
    }
    (tmp_path / "folder").mkdir()
    expected = None
    for name, content in files.items():
        for folder in (tmp_path, tmp_path / "folder"):
            (folder / name).write_bytes(b"".join(line + end for line in content))
        examples = load_examples(tmp_path / name, label="label")
        expected = expected or examples.digest
        assert examples.digest == expected
        assert b"\r" not in bytes(load_corpus(tmp_path / name).train.astype(np.uint8))
    assert load_corpus(tmp_path / "folder").split == "by row"  # the header of each is seen
    (tmp_path / "a.txt").write_bytes((b"a line" + end) * 100_000)
    corpus = load_corpus(tmp_path / "a.txt")
    assert bytes([*corpus.train.astype(np.uint8), *corpus.validation.astype(np.uint8)]) == b"a line\n" * 100_000
    (tmp_path / "cell.jsonl").write_text(json.dumps({"text": "a\rb\r\nc\n" * 9}))
    assert read_documents(find_source(tmp_path / "cell.jsonl"), utf8=True).__next__().text == b"a\nb\nc\n" * 9


Writer = Callable[[Path, list[dict[str, Any]]], None]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    cells = [["" if row.get(name) in (None, float) else str(row[name]) for name in ("text", "label")] for row in rows]
    path.write_text("\n".join(["text,label", *map(",".join, cells)]) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(
        "".join(json.dumps({name: float("nan") if value is float else value for name, value in row.items()}) + "\n" for row in rows)
    )


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    rows = [{name: None if value is float else value for name, value in row.items()} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


KINDS: dict[str, Writer] = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
NOTHING = [None, "", " ", float, "absent"]  # float stands for NaN


def without(name: str, value: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"text": f"row number {i}", "label": f"class {i % 2}"} for i in range(40)]
    if value == "absent":
        del rows[13][name]
    else:
        rows[13][name] = value
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", NOTHING)
def test_a_row_without_text_is_left_out_and_counted_in_every_format(tmp_path: Path, kind: str, value: Any) -> None:
    path = tmp_path / f"rows.{kind}"
    KINDS[kind](path, without("text", value))
    corpus = load_corpus(path)
    assert sum(corpus.documents) == 39 and corpus.describe().endswith("; skipped: 1 row without text")
    examples = load_examples(path, label="label")
    assert len(examples.train) + len(examples.validation) == 39 and examples.skipped == 1
    whole = without("text", value)
    del whole[13]
    write_jsonl(tmp_path / "whole.jsonl", whole)
    assert load_corpus(tmp_path / "whole.jsonl").digest == corpus.digest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", NOTHING)
@pytest.mark.parametrize("answer", ["label", "target"])
def test_a_row_without_an_answer_is_refused_in_every_format_unless_it_is_to_be_skipped(
    tmp_path: Path, kind: str, value: Any, answer: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    KINDS[kind](path, without("label", value))
    with pytest.raises(ValueError, match=rf"^{answer}: .*rows\.{kind}:1\d.*; --skip_bad_rows leaves such rows out"):
        load_examples(path, **{answer: "label"})
    examples = load_examples(path, **{answer: "label"}, skip_bad_rows=True)
    assert len(examples.train) + len(examples.validation) == 39
    assert f"skipped: 1 bad row (rows.{kind}:1" in examples.describe()


class TestBadRows:
    lines = (
        b'{"text": "a"}',
        b"not json",
        b'{"text": 5}',
        b'{"text": "b"}',
        b'{"text": "caf\xe9"}',
        b'{"text": "c\0"}',
        b"[1]",
        b'{"text": "d"}',
    )

    def test_they_are_errors_unless_they_are_to_be_skipped(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        for number, line in enumerate(self.lines):
            path.write_bytes(b'{"text": "first"}\n' + line + b"\n")
            if line in (self.lines[0], self.lines[3], self.lines[7]):
                load_corpus(path)
                continue
            with pytest.raises(ValueError, match=r"(a\.jsonl:2|line 2).*--skip_bad_rows"):
                load_corpus(path)
            assert load_corpus(path, skip_bad_rows=True).passed_over.counts == {"bad row": 1}, number

    def test_they_are_counted_and_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\n".join(self.lines))
        corpus = load_corpus(path, skip_bad_rows=True)
        assert corpus.describe().endswith("; skipped: 5 bad rows (a.jsonl:2, a.jsonl:3, a.jsonl:5, ...)")
        assert corpus.passed_over.first["bad row"] == [f"a.jsonl:{number}" for number in (2, 3, 5, 6, 7)]
        assert sum(corpus.documents) // 2 == 3

    def test_where_all_are_bad_the_first_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label\n" + "a,b,c\n" * 9)
        with pytest.raises(
            ValueError, match=r"has 0 rows with text.*9 bad rows.*the first of these: .*a\.csv:2 has 3 columns, the header 2"
        ):
            load_examples(tmp_path / "a.csv", label="label", skip_bad_rows=True)

    def test_a_header_is_no_row(self, tmp_path: Path) -> None:
        for header in (b'text,"label\n', b"text,caf\xe9\n", b"te\0xt,label\n", b"text,text\n"):
            (tmp_path / "a.csv").write_bytes(header + b"a,b\n")
            with pytest.raises(ValueError, match=r"a\.csv"):
                load_corpus(tmp_path / "a.csv", skip_bad_rows=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quotes": "single"}, "quotes must be one of auto, double, none, got 'single'"),
        ({"quotes": "none"}, r"quotes is for rows of \.csv and \.tsv files, and there are none in .*a\.txt"),
        ({"skip_bad_rows": True}, r"skip_bad_rows is for rows of tables, and there are none in .*a\.txt"),
    ],
)
def test_an_option_that_means_nothing_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / "a.txt", **options)


def test_quotes_none_and_double_are_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"whole"\t1\n"open\t0\nclose"\t1\n')

    def read(quotes: str) -> set[bytes]:
        return {document.text for document in read_documents(find_source(path, quotes=quotes), utf8=True)}

    assert read("none") == {b'"whole"', b'"open', b'close"'}
    assert read("double") == {b"whole", b"open\t0\nclose"}
    assert read("auto") == {b"whole", b'"open', b'close"'}


WHOLE = [{"text": f"Row {i}: \u4e2d {{[,", "n": [{"a": i}]} for i in range(3)]
SHAPES = {
    "indented": "\n".join(json.dumps(row, indent=2) for row in WHOLE),
    "side by side": " ".join(json.dumps(row) for row in WHOLE),
    "within": json.dumps({"version": [1, {"x": "["}], "none": [], "data": WHOLE, "more": {"text": "no"}}),
    "within, indented": json.dumps({"info": "a", "data": WHOLE}, indent=4, ensure_ascii=False),
    "several within": json.dumps({"train": WHOLE[:1], "other": [{"a": 1}], "test": WHOLE[1:]}),
}


@pytest.mark.parametrize("chunk", [1 << 17, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_json_are_found_however_they_are_laid_out(
    shape: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subquadratic.data.reading.CHUNK", chunk)
    (tmp_path / "rows.json").write_text("\ufeff" + SHAPES[shape] + "\n")
    for text in ({}, {"text": "text"}):
        documents = read_documents(find_source(tmp_path / "rows.json", **text), utf8=True)
        assert [document.text.decode() for document in documents] == [row["text"] for row in WHOLE]
    (tmp_path / "rows.json").write_text(SHAPES[shape][:-3])
    with pytest.raises(ValueError, match=r"rows\.json:\d+ is not valid JSON"):
        list(read_documents(find_source(tmp_path / "rows.json"), utf8=True))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_the_header_says_what_separates_columns(suffix: str, separator: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{suffix}"
    rows = [["body", "stars"], ['"one, two; three|four"', "1"], ["five", "0"]]
    file.write_text("\n" + "\n".join(separator.join(row) for row in rows) + "\n")
    found = [document.text for document in read_documents(find_source(file, text="body"), utf8=True)]
    assert found == [b"one, two; three|four", b"five"]
    with pytest.raises(ValueError, match=r"no field 'boddy'; its fields are 'body', 'stars'; did you mean --text body\?"):
        list(read_documents(find_source(file, text="boddy"), utf8=True))
    file.write_text(f"body{separator}stars\nx{separator}1\n")
    (tmp_path / "more.csv").write_text("body;a,b\nsix;\n")  # no comma in a name that is asked for
    found = [document.text for document in read_documents(find_source(tmp_path, text="body"), utf8=True)]
    assert found == ([b"six", b"x"])


@pytest.mark.parametrize(("encoding", "text"), [("utf-16-le", "\u4e2d\u6587\u5b57" * 200), ("latin-1", "d\u00e9j\u00e0 vu " * 100)])
def test_what_is_not_utf8_is_read_as_bytes_with_a_word(encoding: str, text: str, tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_bytes(f"{name} {text}".encode(encoding) if encoding == "latin-1" else (text + name[:3]).encode(encoding))
    (tmp_path / "three.txt").write_bytes(TEXT)
    (tmp_path / "cut.txt").write_bytes(TEXT + "\u00e9".encode()[:1])
    if encoding == "utf-16-le":
        for name in ("one.txt", "two.txt"):
            (tmp_path / name).write_bytes(text.encode(encoding) + (b"" if name == "one.txt" else b"ab"))
    corpus = load_corpus(tmp_path)
    assert corpus.describe().endswith("; read as bytes: 3 not UTF-8")
    assert load_corpus(tmp_path / "one.txt").describe().endswith("; read as bytes: 1 not UTF-8")
    assert corpus.passed_over.first["not UTF-8"] == ["cut.txt", "one.txt", "two.txt"]
    assert "not UTF-8" not in load_corpus(tmp_path, binary=True).describe()


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_table_without_the_field_is_passed_over_among_several(kind: str, tmp_path: Path) -> None:
    other = [{"title": f"other {i}", "n": "1"} for i in range(1200)]
    content = {
        "jsonl": "\n".join(map(json.dumps, other)),
        "json": json.dumps(other),
        "csv": "title,n\n" + "a,1\n" * 9,
        "tsv": "title\tn\n" + "a\t1\n" * 9,
    }
    file = tmp_path / f"other.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(other), file)
    else:
        file.write_text(content[kind])
    (tmp_path / "rows.jsonl").write_bytes(b'{"title": "without"}\n' + LINES)
    corpus = load_corpus(tmp_path, text="body")
    assert corpus.documents[0] + corpus.documents[1] == len(ROWS)
    assert "skipped: 1 without the field 'body', 1 row without text" in corpus.describe()
    with pytest.raises(ValueError, match="no field 'body'"):
        load_corpus(file, text="body")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no field 'body'"):
        load_corpus(tmp_path, text="body")
