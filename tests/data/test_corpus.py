from pathlib import Path

import numpy as np
import pytest

from subquadratic.data import ByteTokenizer, load_corpus
from subquadratic.data.corpus import Corpus, corpus_of
from subquadratic.data.finding import stdlib_source

END = ByteTokenizer.eos_token


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return root


def stdlib_corpus(root: Path) -> Corpus:
    return corpus_of(stdlib_source(root))


def texts(tokens: np.ndarray) -> list[bytes]:
    ends = np.flatnonzero(tokens == END)
    return [ByteTokenizer().decode_bytes(part) for part in np.split(tokens, ends)]


class TestStandardLibrary:
    def test_is_there_is_code_and_is_the_same_twice(self) -> None:
        corpus, again = load_corpus(), load_corpus("stdlib")
        assert corpus.digest == again.digest
        assert np.array_equal(corpus.train, again.train)
        assert np.array_equal(corpus.validation, again.validation)
        assert len(corpus.train) > 5e6
        assert 0.03 < len(corpus.validation) / len(corpus.train) < 0.3
        assert b"\ndef " in ByteTokenizer().decode_bytes(corpus.validation)
        assert "Python" in corpus.describe()

    def test_keeps_the_modules_of_a_package_on_one_side_and_drops_copies_and_tests(self, tmp_path: Path) -> None:
        names = [f"package{i}" for i in range(60)]
        files = {f"{name}/{part}.py": f"# {name} {part}\r\n".encode() for name in names for part in "abc"}
        files |= {
            "copy.py": files["package0/a.py"],
            "blank.py": b" \n",
            "latin.py": b"# \xe9\n",
            "package1/test/t.py": b"# test\n",
            "site-packages/s.py": b"# site\n",
            "encodings/e.py": b"# table\n",
            "notes.txt": b"not Python\n",
        }
        corpus = stdlib_corpus(write(tmp_path, files))
        train, validation = texts(corpus.train), texts(corpus.validation)
        assert len(train) + len(validation) == 180
        assert not {text.split()[1] for text in train} & {text.split()[1] for text in validation}
        assert b"\r" not in b"".join(train + validation)
        assert corpus.documents == (len(train), len(validation))

    def test_without_sources_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no \.py sources"):
            stdlib_corpus(tmp_path)


class TestFilesAndFolders:
    def test_a_file_is_split_by_position(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(bytes(range(32, 132)))
        corpus = load_corpus(tmp_path / "a.txt")
        assert corpus.train.tolist() == list(range(32, 122))
        assert corpus.validation.tolist() == list(range(122, 132))
        assert "by position" in corpus.split

    def test_a_folder_of_many_files_is_split_by_document(self, tmp_path: Path) -> None:
        files = {f"{i % 7}/{i}.txt": f"document {i:03}".encode() for i in range(200)}
        corpus = load_corpus(write(tmp_path, {**files, ".hidden": b"hidden", "image.bin": b"\0\1"}))
        assert corpus.split == "by document"
        assert sorted(texts(corpus.train) + texts(corpus.validation)) == sorted(files.values())
        assert len(texts(corpus.validation)) == corpus.documents[1] > 5

    def test_a_folder_with_too_few_files_is_split_by_position(self, tmp_path: Path) -> None:
        corpus = load_corpus(write(tmp_path, {"a.txt": b"a" * 50, "b.txt": b"b" * 49}))
        assert "by position" in corpus.split
        assert corpus.validation.tolist() == [98] * 10

    def test_the_digest_follows_names_and_content(self, tmp_path: Path) -> None:
        first = load_corpus(write(tmp_path / "1", {"a.txt": b"text", "b.txt": b"more"}))
        same = load_corpus(write(tmp_path / "2", {"b.txt": b"more", "a.txt": b"text"}))
        other = load_corpus(write(tmp_path / "3", {"a.txt": b"text", "b.txt": b"mord"}))
        assert first.digest == same.digest != other.digest

    def test_what_is_missing_or_empty_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").write_text(" \n")
        (tmp_path / "folder").mkdir()
        for name, message in [("none.txt", "no such file"), ("empty.txt", "is empty"), ("folder", "no text files")]:
            with pytest.raises(ValueError, match=message) as error:
                load_corpus(tmp_path / name)
            assert name in str(error.value)

    def test_an_unreadable_file_is_refused_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "secret.txt"
        path.write_text("text")

        def refuse(path: Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so no mode would do
        with pytest.raises(ValueError, match=r"cannot read .*secret\.txt"):
            load_corpus(path)
