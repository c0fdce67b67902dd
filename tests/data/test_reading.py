import bz2
import gzip
import io
import lzma
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data import reading
from subquadratic.data.reading import cut_place, pieces_of, read_chunks, read_text

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": partial(lzma.compress, preset=0), ".zst": zstandard.ZstdCompressor().compress}
TEXT = "".join(f"line {i} of a text — {i * 7919 % 1000}\n" for i in range(20_000)).encode()


def in_chunks(text: bytes, size: int) -> list[bytes]:
    return [text[i : i + size] for i in range(0, len(text), size)]


class TestCompression:
    @pytest.mark.parametrize("suffix", PACK)
    def test_comes_back_whole_also_from_several_streams_in_one_file(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(PACK[suffix](TEXT) + PACK[suffix](b"more"))
        read: list[int] = []
        assert b"".join(read_chunks(path, read.append)) == TEXT + b"more"
        assert sum(read) == path.stat().st_size

    @pytest.mark.parametrize("suffix", PACK)
    @pytest.mark.parametrize("keep", [0, 1, 20, -1])
    def test_a_truncated_file_is_refused_by_name(self, tmp_path: Path, suffix: str, keep: int) -> None:
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(PACK[suffix](TEXT)[:keep])
        with pytest.raises(ValueError, match=r"a\.txt.* is (cut short|damaged)"):
            list(read_chunks(path))

    @pytest.mark.parametrize("suffix", PACK)
    def test_what_is_not_compressed_is_refused_by_name(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(b"plain text, whatever its name says")
        with pytest.raises(ValueError, match=rf"a\.txt\{suffix} is damaged, or not \{suffix}"):
            list(read_chunks(path))

    def test_a_folder_in_place_of_a_file_is_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"cannot read .*Is a directory"):
            list(read_chunks(tmp_path))


class TestText:
    @given(st.binary(max_size=60).filter(lambda text: b"\0" not in text and not text.startswith(reading.BOM)), st.integers(1, 7))
    def test_line_ends_are_lf_wherever_chunks_end(self, text: bytes, size: int) -> None:
        text = text.replace(b"a", b"\r").replace(b"b", b"\n")
        as_python = io.TextIOWrapper(io.BytesIO(text), encoding="latin-1", newline=None).read().encode("latin-1")
        assert b"".join(read_text(in_chunks(text, size), name="a", utf8=False)) == as_python

    @given(st.binary(max_size=30), st.integers(1, 7))
    def test_raw_bytes_come_as_they_are(self, data: bytes, size: int) -> None:
        data = reading.BOM + data + b"\0\r\n\xff"
        assert b"".join(read_text(in_chunks(data, size), name="a", raw=True)) == data

    @given(st.integers(0, 20), st.integers(1, 7))
    def test_a_nul_byte_is_refused_with_its_offset_wherever_it_is(self, before: int, size: int) -> None:
        with pytest.raises(ValueError, match=rf"f is not text: it has a NUL byte at byte {before}.*--binary"):
            list(read_text(in_chunks(b"a" * before + b"\0b", size), name="f"))

    def test_a_byte_order_mark_is_no_text(self) -> None:
        for size in (1, 2, 3, 4):
            assert b"".join(read_text(in_chunks(reading.BOM + b"a", size), name="a", utf8=True)) == b"a"
        assert list(read_text([], name="a", utf8=True)) == []

    @given(st.integers(100, 3000))
    def test_pieces_are_bounded_and_whole_lines(self, size: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "PIECE", 2000)
            text = TEXT[:9_000]
            for pieces in (list(read_text(in_chunks(text, size), name="a", utf8=True)), list(pieces_of(text))):
                assert b"".join(pieces) == text
                assert all(0 < len(piece) <= 4000 for piece in pieces)
                assert all(piece.endswith(b"\n") for piece in pieces[:-1])

    @pytest.mark.parametrize(
        ("text", "place"),
        [(b"abc def gh", 7), (b"abcde\nfg h", 6), (b"a\n\n\n\n\n\n\n b", 9), ("é".encode() * 5, 8), (b"a" * 10, 9)],
    )
    def test_a_cut_falls_before_a_line_a_word_or_a_character(self, text: bytes, place: int) -> None:
        assert cut_place(text, 9) == place

    @given(st.text(min_size=8), st.integers(4, 30))
    def test_a_cut_never_parts_a_character(self, text: str, size: int) -> None:
        data = text.encode(errors="replace")
        size = min(size, len(data))
        cut = cut_place(data, size)
        assert 0 < cut <= size
        data[:cut].decode()
        data[cut:].decode()

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_what_is_not_utf8_is_refused_with_its_offset(self, size: int) -> None:
        for text, offset in [(b"\xc3\xa9\xff.", 2), (b"ab\xe2\x82", 2), (b"abc\xe2\x82x", 3)]:
            with pytest.raises(ValueError, match=f"f is not UTF-8 at byte {offset}"):
                list(read_text(in_chunks(text, size), name="f", utf8=True))
