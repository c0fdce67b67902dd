import bz2
import gzip
import io
import json
import lzma
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from tests.data.tokenizers_for_tests import bpe

from subquadratic.data import ByteTokenizer, load_corpus, reading
from subquadratic.data.documents import read_documents
from subquadratic.data.finding import find_source
from subquadratic.data.source import Source

BPE = bpe()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
    return root


def texts(source: Source, *, utf8: bool = True) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for document in read_documents(source, utf8=utf8):
        found[document.name] = found.get(document.name, b"") + document.text
    return found


class TestManyFiles:
    def test_a_folder_gives_texts_and_rows_without_hidden_binary_blank_and_repeated_ones(self, tmp_path: Path) -> None:
        files = {
            "a.txt": b"\xef\xbb\xbfone\r\ntwo",
            "b/c.txt.gz": gzip.compress(b"three"),
            "b/copy.txt": b"three",
            "blank.md": b" \n",
            "image.png": b"\x89PNG\0\xff",
            "utf16.txt": "text".encode("utf-16"),
            ".hidden": b"h",
            ".git/x": b"h",
            "__pycache__/x.py": b"h",
            "rows.jsonl": b'{"text": "four"}\n\n{"text": " "}\n{"text": "fi\\u00e9ve"}\n',
            "rows.csv": b"text,n\nsix,1\n",
            "other.csv": b"name,n\nseven,1\n",
        }
        assert texts(find_source(write(tmp_path, files))) == {
            "a.txt": b"one\ntwo",
            "b/c.txt.gz": b"three",
            "other.csv": b"name,n\nseven,1\n",
            "rows.csv:2": b"six",
            "rows.jsonl:1": b"four",
            "rows.jsonl:4": "fiéve".encode(),
        }

    def test_a_pattern_gives_the_files_that_match(self, tmp_path: Path) -> None:
        write(tmp_path, {"x/a.md": b"a", "x/b.txt": b"b", "x/y/c.md": b"c", "x/y/.d.md": b"d", "x/e.md/f": b"f"})
        assert set(texts(find_source(f"{tmp_path}/x/*.md"))) == {"a.md"}
        assert set(texts(find_source(f"{tmp_path}/**/*.md"))) == {"x/a.md", "x/y/c.md"}
        with pytest.raises(ValueError, match=r"no file matches .*\*\.rst"):
            find_source(f"{tmp_path}/*.rst")

    def test_a_name_with_brackets_is_a_name_where_it_exists(self, tmp_path: Path) -> None:
        write(tmp_path, {"a[1].txt": b"a"})
        assert texts(find_source(tmp_path / "a[1].txt")) == {"a[1].txt": b"a"}

    def test_a_link_in_a_circle_is_not_followed(self, tmp_path: Path) -> None:
        write(tmp_path, {"a/b.txt": b"b"})
        (tmp_path / "a" / "again").symlink_to(tmp_path)
        (tmp_path / "broken.txt").symlink_to(tmp_path / "none")
        assert set(texts(find_source(tmp_path))) == {"a/b.txt"}

    def test_long_copies_do_not_count_either(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "PIECE", 100)
        text = b"a line of some text\n" * 50
        write(tmp_path, {"a.txt": text, "b.txt": text, "c.txt": text[:-1] + b"!", "d.txt": text + b"!"})
        assert set(texts(find_source(tmp_path))) == {"a.txt", "c.txt", "d.txt"}

    def test_a_file_that_is_not_utf8_is_named(self, tmp_path: Path) -> None:
        source = find_source(write(tmp_path, {"a.txt": b"a", "b.txt": b"caf\xe9"}))
        with pytest.raises(ValueError, match=r"b\.txt is not UTF-8 at byte 3: convert it"):
            texts(source)
        assert texts(source, utf8=False)["b.txt"] == b"caf\xe9"

    def test_a_folder_that_may_not_be_read_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, {"a/b.txt": b"b"})

        def refuse(path: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(ValueError, match=r"cannot read the folder .*Permission denied"):
            find_source(tmp_path)


class TestOneFile:
    def test_any_bytes_for_the_byte_tokenizer(self, tmp_path: Path) -> None:
        data = bytes(range(256)) + b"\r\n"
        path = write(tmp_path, {"a.bin": data}) / "a.bin"
        corpus = load_corpus(path, binary=True)
        assert ByteTokenizer().decode_bytes([*corpus.train, *corpus.validation]) == data
        path.write_bytes(data[1:])  # what has no NUL byte is read without a word, as text in whatever encoding
        corpus = load_corpus(path)
        assert ByteTokenizer().decode_bytes([*corpus.train, *corpus.validation]) == data[1:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def test_utf16_is_refused_where_text_is_asked(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"a.txt": "text".encode("utf-16")}) / "a.txt"
        with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 at byte 0 \(it looks like UTF-16\)"):
            load_corpus(path, tokenizer=BPE)

    def test_rows_are_documents_split_by_their_content(self, tmp_path: Path) -> None:
        rows = [{"body": f"row {i % 100}"} for i in range(300)]
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        corpus = load_corpus(path, text="body")
        assert corpus.split == "by row" and sum(corpus.documents) == 300
        ends = ByteTokenizer.eos_token
        sides = [
            {ByteTokenizer().decode_bytes(part) for part in np.split(tokens, np.flatnonzero(tokens == ends))}
            for tokens in (corpus.train, corpus.validation)
        ]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 100
        packed = tmp_path / "b.jsonl.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        table = tmp_path / "c.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        assert {load_corpus(other, text="body").digest for other in (path, packed, table)} == {corpus.digest}

    def test_a_field_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, {"a.jsonl": b'{"txt": "a"}\n', "a.csv": b"body,n\na,1\n"})
        with pytest.raises(ValueError, match=r"a\.jsonl:1 has no field 'text'; its fields are 'txt'; did you mean --text txt\?"):
            load_corpus(tmp_path / "a.jsonl")
        with pytest.raises(ValueError, match=r"the header of .*a\.csv has no field 'text'.*name the one that holds the text with --text"):
            load_corpus(tmp_path / "a.csv")

    @pytest.mark.parametrize(("name", "message"), [("a.jsonl", "holds no text"), ("a.txt", "is empty"), ("a.csv", "is empty")])
    def test_nothing_in_it(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_corpus(write(tmp_path, {name: b""}) / name)


@pytest.mark.parametrize(("name", "message"), [("", "the name is empty"), ("~nobody-has-this-name/x", "no such file or folder: ~nobody")])
def test_names_that_name_nothing(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_corpus(name)


def test_sizes_are_told_in_fitting_units(tmp_path: Path) -> None:
    for count, said in [(40, "36 + 4 bytes"), (20_000, "18.00 + 2.00 kB"), (2_000_000, "1.80 + 0.20 MB")]:
        (tmp_path / "a.txt").write_bytes(b"a" * count)
        assert said in load_corpus(tmp_path / "a.txt").describe()


class TestStreams:
    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        text = "line é\n" * 1000
        for _ in range(2):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            corpus = load_corpus("-", tokenizer=BPE)
            assert BPE.decode([*corpus.train, *corpus.validation]) == text
        assert corpus.name == "standard input" and "by position" in corpus.split
        assert len(list(cache.iterdir())) == 3

    def test_nothing_piped_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(ValueError, match="standard input is empty"):
            load_corpus("-")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        with pytest.raises(ValueError, match="nothing is piped in"):
            load_corpus("-")

    @pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
    def test_what_comes_compressed_is_expanded(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}
        packed: Any = pack[kind]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed(b"text " * 20))))
        assert load_corpus("-").train_bytes == 90
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed(b"text " * 20)[:-1])))
        with pytest.raises(ValueError, match="standard input is cut short"):
            load_corpus("-")

    def test_a_pipe_by_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"text " * 20)).start()
        corpus = load_corpus(tmp_path / "pipe")
        assert corpus.train_bytes + corpus.validation_bytes == 100

