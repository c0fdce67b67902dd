"""FASTA records as documents."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from subquadratic.data import load_corpus
from subquadratic.data.fasta import fasta_records

TEXT = b">one first\nACGT\nACgtn\n\n>two\nTTTT\n>empty\n>three\n  GG GG\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("headers", [True, False])
def test_records_however_the_text_is_cut(size: int, headers: bool) -> None:
    pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    found = [(name, b"".join(record)) for name, record in fasta_records(pieces, headers=headers)]
    sequences = {"one": b"ACGTACgtn", "two": b"TTTT", "empty": b"", "three": b"GGGG"}
    titles = {"one": b">one first\n", "two": b">two\n", "empty": b">empty\n", "three": b">three\n"}
    assert found == [(name, (titles[name] if headers else b"") + text) for name, text in sequences.items()]


def test_a_sequence_without_a_header_is_a_record() -> None:
    assert [(name, b"".join(record)) for name, record in fasta_records([b"ACGT\nAC\n"], headers=True)] == [("", b"ACGTAC")]


@pytest.mark.parametrize("suffix", [".fa", ".fasta", ".fna.gz"])
def test_a_genome_is_read_by_record_and_said_to_be(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 300)) for _ in range(40)]
    lines = [f">c{i} test\n" + "\n".join(s[j : j + 60] for j in range(0, 300, 60)) for i, s in enumerate(sequences)]
    text = "\n".join([*lines, ">nothing"]).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    corpus = load_corpus(path, headers=False)
    assert sum(corpus.documents) == 40
    assert "FASTA read as records, their headers left out" in corpus.describe() and "1 record without a sequence" in corpus.describe()
    assert set(corpus.train[:].tolist()) == {*b"ACGT", corpus.tokenizer.eos_token}
    with_headers = load_corpus(path)
    assert "their headers kept (--headers false leaves them out)" in with_headers.describe()
    assert corpus.tokenizer.decode(with_headers.train[:20]).startswith(">c")


def test_headers_mean_nothing_for_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(">not a header\n" * 10)
    with pytest.raises(ValueError, match="headers is for FASTA files"):
        load_corpus(tmp_path / "a.txt", headers=False)
    (tmp_path / "a.fa").write_bytes(TEXT)
    assert bytes(load_corpus(tmp_path / "a.fa", binary=True).train[:6].astype(np.uint8)) == b">one f", "bytes as they are"
