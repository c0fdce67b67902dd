import io

from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data.lines import read_lines


def in_chunks(text: bytes, size: int) -> list[bytes]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@given(st.text(alphabet="aé\r\n\u2028\x0b\x85", max_size=30), st.integers(1, 5))
def test_lines_are_those_of_python_wherever_chunks_end(text: str, size: int) -> None:
    lines = list(read_lines(in_chunks(text.encode(), size)))
    assert [line.text for line in lines] == io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="").readlines()
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert all(line.problem is None for line in lines)


@given(st.integers(1, 9))
def test_a_byte_order_mark_is_no_text(size: int) -> None:
    assert [line.text for line in read_lines(in_chunks(b"\xef\xbb\xbfa\rb", size))] == ["a\r", "b"]


@given(st.integers(1, 9), st.sampled_from(["\n", "\r", "\r\n"]), st.booleans())
def test_what_is_wrong_with_a_line_is_told_with_it_and_where_it_is(size: int, end: str, mark: bool) -> None:
    text = (b"\xef\xbb\xbf" if mark else b"") + end.encode().join([b"one", b"caf\xe9", b"a\0b", b"four"])
    lines = list(read_lines(in_chunks(text, size)))
    assert [line.problem for line in lines] == [
        None,
        f"is not UTF-8 at byte {text.index(0xE9)} (line 2): convert it to UTF-8",
        f"has a NUL byte at byte {text.index(0)} (line 3)",
        None,
    ]
    assert lines[3].text == "four"
