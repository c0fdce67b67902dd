import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data.sniffing import encoding_of, json_shape, no_text, refusal

WORDS = st.text(alphabet="abc déñ\n\t.", min_size=4, max_size=40)


@given(WORDS, st.sampled_from(["utf-16", "utf-32"]))
def test_an_encoding_with_a_mark_is_known(text: str, encoding: str) -> None:
    assert no_text(text.encode(encoding)) == encoding.upper()


@given(WORDS, st.sampled_from(["utf-16-le", "utf-16-be"]), st.integers(0, 1))
def test_so_is_one_without_and_one_cut_inside_a_character(text: str, encoding: str, cut: int) -> None:
    data = text.encode(encoding)
    assert encoding_of(data[: len(data) - cut]) == "UTF-16"


@given(st.text(max_size=60).filter(lambda text: "\0" not in text))
def test_utf8_without_a_zero_is_a_text(text: str) -> None:
    if not text.startswith("%PDF-") and not text.startswith("PAR1"):
        assert no_text(text.encode(errors="replace")) is None


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (saved(np.arange(100)), "a NumPy array"),
        (saved(np.arange(100, dtype=np.uint16)), "a NumPy array"),
        (b"\x1f\x8b\x08\x08abc", "gzip: name it .gz"),
        (b"PAR1" + b"abc" * 9, "parquet"),
        (b"%PDF-1.7\n%abc", "a PDF"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"\0\1\2\3", "NUL byte at byte 0"),
        (bytes(range(1, 256)) + b"\0", "NUL byte at byte 255"),
    ],
)
def test_what_is_binary_is_refused_by_what_it_is_with_the_way_out(data: bytes, said: str) -> None:
    assert no_text(data) == "binary"
    assert said in str(refusal(data, "f")) and "--binary" in str(refusal(data, "f"))
    assert "--binary" not in str(refusal(data, "f", raw=False))


ROW = {"body": "a\nb", "n": [1, {"m": "}"}]}


@pytest.mark.parametrize(
    ("text", "shape", "row"),
    [
        (json.dumps(ROW) + "\n" + json.dumps(ROW), "lines", ROW),
        (json.dumps(ROW), "lines", ROW),
        ("\ufeff\n  " + json.dumps(ROW) + "\r" + json.dumps(ROW), "lines", ROW),
        (json.dumps([ROW, ROW]), "array", ROW),
        (json.dumps([ROW, ROW], indent=2), "array", ROW),
        (json.dumps(ROW, indent=2), None, None),
        (json.dumps([1, 2]), None, None),
        ("[]", None, None),
        ("text", None, None),
        ('{"a": 1} {"b": 2}\n', None, None),
        ("", None, None),
    ],
)
def test_the_shape_of_json(text: str, shape: str | None, row: object) -> None:
    assert json_shape(text.encode(), whole=True) == (shape, row)


def test_a_row_that_is_longer_than_what_is_looked_at_is_a_row() -> None:
    assert json_shape(b'{"text": "long', whole=False) == ("lines", None)
    assert json_shape(b'{"text": "long', whole=True) == (None, None)
