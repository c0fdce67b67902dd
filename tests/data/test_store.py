import gzip
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.data.tokenizers_for_tests import LINES, bpe

from subquadratic.data import ByteTokenizer, Corpus, load_corpus, reading, store, tokenizing
from subquadratic.data import corpus as corpus_file
from subquadratic.data.finding import find_source

BPE = bpe()
FILES = {f"{i % 7}/{i}.txt": f"document {i:03} {LINES[i % len(LINES)]}\n" * (i % 5 + 1) for i in range(120)}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def same(one: Corpus, two: Corpus) -> bool:
    arrays = ("train", "validation", "train_starts", "validation_starts")
    facts = ("digest", "split", "documents", "train_bytes", "validation_bytes")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays) and all(
        getattr(one, name) == getattr(two, name) for name in facts
    )


def documents(corpus: Corpus, side: str) -> list[str]:
    tokens, starts = getattr(corpus, side), getattr(corpus, f"{side}_starts")
    return [corpus.tokenizer.decode(part) for part in np.split(tokens, starts[1:])]


class TestContent:
    @pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
    def test_on_disk_and_in_memory_are_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
        write(tmp_path, FILES)
        whole, layout = store.tokens_in_memory(find_source(tmp_path), tokenizer)
        monkeypatch.setattr(corpus_file, "MEMORY_BYTES", 0)
        first, again = load_corpus(tmp_path, tokenizer=tokenizer), load_corpus(tmp_path, tokenizer=tokenizer)
        assert isinstance(first.train, np.memmap) and same(first, again)
        assert first.digest == layout.digest
        assert np.array_equal(np.concatenate([first.train, first.validation]), whole)
        assert sorted(documents(first, "train") + documents(first, "validation")) == sorted(FILES.values())
        assert first.split == "by document"
        assert first.train_bytes == sum(len(text.encode()) for text in documents(first, "train"))
        assert first.validation_bytes == sum(len(text.encode()) for text in documents(first, "validation"))

    @pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
    def test_by_position_keeps_the_order_of_documents_whatever_their_hash(self, tmp_path: Path, tokenizer: Any) -> None:
        files = {f"{i}.txt": f"{i} " * 10 for i in range(40)} | {"big.txt": "big " * 4000}
        corpus = load_corpus(write(tmp_path, files), tokenizer=tokenizer)
        assert "by position" in corpus.split
        tokens = np.concatenate([corpus.train, corpus.validation])
        parts = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_token))
        assert [tokenizer.decode(part) for part in parts] == [files[name] for name in sorted(files)]
        starts = [*corpus.train_starts, *(corpus.validation_starts[1:] + len(corpus.train))]
        assert tokens[np.array(starts[1:]) - 1].tolist() == [tokenizer.eos_token] * (len(starts) - 1)
        assert len(starts) == 41
        assert corpus.train_bytes + corpus.validation_bytes == sum(map(len, files.values()))
        assert corpus.validation_bytes == len(tokenizer.decode_bytes(corpus.validation))

    @settings(max_examples=30, deadline=None)
    @example(text="aaaaa aaaaa aaaaa aaaaa aaaaa a aaaaa aaaaa  aaa  abaaa aaaaa  aaaaa aaaaa aaaaa  aaaaa  aaaaa", size=10)
    @given(text=st.text(alphabet="ab \n\tcé", min_size=100, max_size=2000), size=st.integers(10, 200))
    def test_a_text_in_pieces_has_the_tokens_of_the_whole(self, text: str, size: int) -> None:
        # A word longer than a piece has to be cut somewhere; none is here.
        text = text.replace("\n\n", "\nx") + "\nend"
        if max(map(len, text.split())) * 2 > size:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "PIECE", size)
            pieces = list(reading.pieces_of(text.encode()))
        assert np.array_equal(np.concatenate(BPE.encode_batch(pieces)), BPE.encode(text))

    def test_a_long_text_is_encoded_in_pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "".join(f"line {i} of a text\n" for i in range(3000))
        path = write(tmp_path, {"a.txt": text}) / "a.txt"
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
        monkeypatch.setattr(reading, "PIECE", 1000)
        monkeypatch.setattr(tokenizing, "BATCH_BYTES", 5000)
        corpus, packed = load_corpus(path, tokenizer=BPE), load_corpus(tmp_path / "a.txt.gz", tokenizer=BPE)
        assert np.array_equal(np.concatenate([corpus.train, corpus.validation]), BPE.encode(text))
        assert corpus.digest == packed.digest
        assert len(corpus.train_starts) == len(corpus.validation_starts) == 1

    def test_the_digest_follows_the_tokenizer(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"a.txt": "some text"}) / "a.txt"
        assert len({load_corpus(path, tokenizer=tokenizer).digest for tokenizer in (None, BPE, bpe(size=310))}) == 3


class TestReuse:
    def test_a_store_is_used_again_until_the_source_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, {"a.txt": "some text " * 99}) / "a.txt"
        calls: list[tuple[int, int | None]] = []
        first = load_corpus(path, tokenizer=BPE, progress=lambda done, total: calls.append((done, total)))
        assert calls[-1] == (990, 990)
        calls.clear()
        again = load_corpus(path, tokenizer=BPE, progress=lambda done, total: calls.append((done, total)))
        assert same(first, again) and not calls
        path.write_text("other text" * 99)
        os.utime(path, ns=(1, 1))
        assert load_corpus(path, tokenizer=BPE).digest != first.digest
        assert len(first.train) == len(again.train)  # what is open stays as it was

    @pytest.mark.parametrize("suffix", ["bin", "npy", "json"])
    @pytest.mark.parametrize("damage", ["cut", "empty", "gone", "garbage"])
    def test_a_damaged_store_is_built_anew(self, tmp_path: Path, cache: Path, suffix: str, damage: str) -> None:
        path = write(tmp_path, FILES)
        first = load_corpus(path, tokenizer=BPE)
        expected = [np.array(first.train), np.array(first.train_starts)]
        (part,) = cache.glob(f"*.{suffix}")
        content = part.read_bytes()
        if damage == "gone":
            part.unlink()
        else:
            part.write_bytes({"cut": content[:-2], "empty": b"", "garbage": b"\xff{" * 9}[damage])
        again = load_corpus(path, tokenizer=BPE)
        assert np.array_equal(again.train, expected[0]) and np.array_equal(again.train_starts, expected[1])

    @pytest.mark.parametrize("change", [{"format": 2}, {"source": "x"}, {"dtype": "<u4"}, {"train_tokens": "x"}, {"more": 1}], ids=str)
    def test_a_sidecar_that_does_not_fit_is_not_believed(self, tmp_path: Path, cache: Path, change: dict[str, Any]) -> None:
        path = write(tmp_path, {"a.txt": "some text"}) / "a.txt"
        first = load_corpus(path, tokenizer=BPE)
        (sidecar,) = cache.glob("*.json")
        content = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps(content | change))
        assert same(load_corpus(path, tokenizer=BPE), first)
        assert json.loads(sidecar.read_text()) == content

    def test_the_sidecar_says_what_the_tokens_are(self, tmp_path: Path, cache: Path) -> None:
        corpus = load_corpus(write(tmp_path, FILES), tokenizer=BPE)
        (sidecar,) = cache.glob("*.json")
        content = json.loads(sidecar.read_text())
        assert content["dtype"] == "<u2" and content["tokenizer"] == BPE.digest and content["digest"] == corpus.digest
        assert content["train_tokens"] == len(corpus.train) and content["train_bytes"] == corpus.train_bytes
        (tokens,) = cache.glob("*.bin")
        assert np.array_equal(np.fromfile(tokens, dtype="<u2")[: len(corpus.train)], corpus.train)


class TestAccidents:
    def test_a_crash_in_the_middle_leaves_nothing_that_counts(self, tmp_path: Path, cache: Path) -> None:
        path = write(tmp_path, {"a.txt": "some text " * 99}) / "a.txt"
        code = (
            "import os, sys; from pathlib import Path; from subquadratic.data import store, load_corpus, load_tokenizer;"
            "os.replace = None; store._publish = lambda file, path: (file.flush(), os._exit(9));"
            "load_corpus(sys.argv[1], tokenizer=load_tokenizer(sys.argv[2]))"
        )
        BPE.save(tmp_path / "bpe")
        assert subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "bpe")]).returncode == 9
        assert list(cache.glob(".*.part")) and not list(cache.glob("*.json"))
        corpus = load_corpus(path, tokenizer=BPE)
        assert corpus.train_bytes + corpus.validation_bytes == 990
        assert not list(cache.glob(".*.part"))

    def test_two_builders_at_once_agree(self, tmp_path: Path, cache: Path) -> None:
        path = write(tmp_path, FILES)
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            one, two = pool.map(_digest_of, [str(path)] * 2)
        assert one == two == load_corpus(path, tokenizer=bpe()).digest
        assert len(list(cache.glob("*.bin"))) == 1

    def test_a_bad_text_leaves_nothing(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"good\n" * 1000 + b"\xff")
        with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 at byte 5,000"):
            load_corpus(tmp_path / "a.txt", tokenizer=BPE)
        assert not list(cache.glob("*")) and not list(cache.glob(".*.part"))

    def test_a_source_that_changes_meanwhile_is_refused(self, tmp_path: Path, cache: Path) -> None:
        path = write(tmp_path, {"a.txt": "some text " * 99}) / "a.txt"
        with pytest.raises(ValueError, match="changed while it was read"):
            load_corpus(path, tokenizer=BPE, progress=lambda done, total: os.utime(path, ns=(1, done)))
        assert not list(cache.glob("*.*"))

    @pytest.mark.parametrize(("number", "message"), [(28, "no space left there"), (30, "Read-only file system"), (13, "Permission denied")])
    def test_a_cache_that_cannot_be_written_says_what_to_set(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
    ) -> None:
        def refuse(file: Any, path: Path) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store, "_publish", refuse)
        path = write(tmp_path, {"a.txt": "some text"}) / "a.txt"
        with pytest.raises(ValueError, match=rf"cache: cannot write .*{message}.*; set SUBQ_CACHE"):
            load_corpus(path, tokenizer=BPE)
        assert not list(cache.glob("*"))

    def test_a_file_where_the_cache_should_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, {"a.txt": "some text"}) / "a.txt"
        with pytest.raises(ValueError, match="set SUBQ_CACHE"):
            load_corpus(path, tokenizer=BPE, cache=path)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("SUBQ_CACHE", "~/mine")
    assert store.cache_folder() == Path("/home/someone/mine")
    monkeypatch.delenv("SUBQ_CACHE")
    assert store.cache_folder() == Path("/xdg/subquadratic")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_folder() == Path("/home/someone/.cache/subquadratic")


def _digest_of(path: str) -> str:
    return load_corpus(path, tokenizer=bpe()).digest
