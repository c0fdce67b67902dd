import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data import json_rows
from subquadratic.data.json_rows import json_array, json_lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3).map(lambda row: {**row, "text": str(row)}), max_size=5)


class Bad(list[tuple[str, str]]):
    def __call__(self, where: str, problem: str, *, alone: bool = True) -> None:
        self.append((where, problem))


def chunks(text: str, size: int) -> list[bytes]:
    data = text.encode(errors="replace")
    return [data[i : i + size] for i in range(0, len(data), size)]


def read(how: Any, text: str, fields: dict[str, str] | None = None, size: int = 1000) -> tuple[list[Any], Bad]:
    bad = Bad()
    return list(how(chunks(text, size), "f", fields or {"text": "text"}, bad)), bad


@given(ROWS, st.integers(1, 50), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_its_rows_however_it_is_cut(rows: list[dict[str, Any]], size: int, indent: int | None, plain: bool) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=not plain)
    found, bad = read(json_array, text, size=size)
    assert [row["text"] for _, row in found] == [json.loads(json.dumps(row))["text"] for row in rows]
    assert not bad


@given(ROWS, st.integers(1, 50), st.sampled_from(["\n", "\r", "\r\n", "\n\n"]))
def test_lines_are_rows_whatever_ends_them(rows: list[dict[str, Any]], size: int, end: str) -> None:
    found, bad = read(json_lines, "".join(json.dumps(row) + end for row in rows), size=size)
    assert [row["text"] for _, row in found] == [row["text"] for row in rows]
    assert not bad


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"}', r"f:1 is not valid JSON: it is cut short"),
        ('[\n{"text": "a"},\n{"text": "b', r"f:3 is not valid JSON: Unterminated string"),
        ('[{"text": "a"}\n{"text": "b"}]', r"f:2 is not valid JSON: Expecting ',' delimiter, got '\{'"),
        ('[{"text": "a"}] x', r"f:1 is not valid JSON: more comes after the array"),
        ("[" * 100_000, r"f:1 is not valid JSON: it is nested too deeply"),
        ('[{"text": tru}' + " " * 100 + "]", r"f:1 is not valid JSON: Expecting value"),
    ],
)
@pytest.mark.parametrize("size", [3, 1000])
def test_a_damaged_array_is_refused_by_line(text: str, message: str, size: int) -> None:
    with pytest.raises(ValueError, match=message):
        read(json_array, text, size=size)


def test_damage_early_in_a_long_array_is_told_before_all_of_it_is_read() -> None:
    asked = 0

    def source() -> Any:
        nonlocal asked
        yield b'[{"text": nothing}, '
        for _ in range(1000):
            asked += 1
            yield b'{"text": "abc"}, ' * 10

    with pytest.raises(ValueError, match="f:1 is not valid JSON"):
        list(json_array(source(), "f", {"text": "text"}, Bad()))
    assert asked < 10


@pytest.mark.parametrize("how", [json_lines, json_array])
def test_rows_without_the_text_are_rows_of_nothing_unless_all_are(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(rows: list[Any]) -> str:
        return "\n".join(map(json.dumps, rows)) if how is json_lines else json.dumps(rows)

    found, bad = read(how, text([{"a": 1}, {"text": "b"}, {"text": None}]))
    assert [row["text"] for _, row in found] == [None, "b", None] and not bad
    with pytest.raises(ValueError, match=r"f:1 has no field 'text'; its fields are 'txt'; did you mean --text txt\?"):
        read(how, text([{"txt": 1}, {"txt": 2}]))
    monkeypatch.setattr(json_rows, "FEW", 5)
    with pytest.raises(ValueError, match="f:1 has no field 'text'"):
        read(how, text([{"txt": 1}] * 5 + [{"text": "late"}]))
    assert len(read(how, text([{"txt": 1}] * 4 + [{"text": "in time"}]))[0]) == 5


@pytest.mark.parametrize("how", [json_lines, json_array])
def test_rows_that_cannot_be_used_are_told_and_passed_over(how: Any) -> None:
    rows = [{"text": "a", "label": 1}, [1], {"text": "b"}, {"text": "c", "label": 2}]
    text = "\n".join(map(json.dumps, rows)) if how is json_lines else "[" + ",\n".join(map(json.dumps, rows)) + "]"
    found, bad = read(how, text, {"text": "text", "label": "label"})
    assert [row["text"] for _, row in found] == ["a", "c"]
    assert [where for where, _ in bad] == ["f:2", "f:3"]
    assert "must hold a JSON object" in bad[0][1] and "has no field 'label'" in bad[1][1]
