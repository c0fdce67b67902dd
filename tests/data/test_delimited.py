import csv
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.data import delimited
from subquadratic.data.delimited import read_records
from subquadratic.data.lines import read_lines

CELLS = st.text(alphabet='ab",\t\n é', max_size=8).map(lambda cell: "x" + cell)  # not blank: a blank record does not count
TABLES = st.integers(2, 4).flatmap(lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=6))


def records(text: str, *, delimiter: str = "\t", quotes: str = "auto", size: int = 7) -> list[list[str] | str]:
    data = text.encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    return [record.problem or record.values for record in read_records(read_lines(chunks), delimiter=delimiter, quotes=quotes)]


def written(table: list[list[str]], *, delimiter: str, end: str, quoting: int) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)  # type: ignore[arg-type]
    return file.getvalue()


@given(TABLES, st.sampled_from([",", "\t"]), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_the_csv_module_writes_is_read(table: list[list[str]], delimiter: str, end: str, quoting: int) -> None:
    table = [[cell.replace("\n", end) for cell in row] for row in table]  # the module quotes a line end of its own
    text = written(table, delimiter=delimiter, end=end, quoting=quoting)
    assert records(text, delimiter=delimiter, quotes="double") == table


@given(TABLES, st.sampled_from(["\n", "\r\n", "\r"]))
def test_without_quotes_a_line_is_a_record(table: list[list[str]], end: str) -> None:
    table = [[cell.replace("\t", " ").replace("\n", " ") for cell in row] for row in table]
    text = "".join("\t".join(row) + end for row in table)
    assert records(text, quotes="none") == table


@given(st.lists(st.tuples(st.text(alphabet='ab" ', min_size=1, max_size=6), st.sampled_from("01")), max_size=12))
def test_no_quotation_mark_swallows_a_row_of_a_tsv_file(rows: list[tuple[str, str]]) -> None:
    text = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    found = records(text)[1:]
    assert [row[1] for row in found] == [label for _, label in rows]
    for (said, _), row in zip(rows, found, strict=True):
        whole = said.startswith('"') and said.endswith('"') and len(said) > 1
        assert row[0] == said or (whole and row[0] == said[1:-1].replace('""', '"'))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (['"Fine," she said\t1'], [['"Fine," she said', "1"]]),
        (['"quoted ""well"""\t1'], [['quoted "well"', "1"]]),
        (['"a\tb"\t1'], [["a\tb", "1"]]),
        (['"two', 'lines"\t1'], [["two\nlines", "1"]]),
        (['1\t"two', 'lines, the last column"'], [["1", "two\nlines, the last column"]]),
        (['"open\t1', *["between\t0"] * 30, 'close"\t1'], [['"open', "1"], *[["between", "0"]] * 30, ['close"', "1"]]),
        # One row with a fault between the two marks is no reason to take all of them for one.
        (
            ['"open\t1', "a\tb\t0", "between\t0", 'close"\t1'],
            [['"open', "1"], "has 3 columns, the header 2", ["between", "0"], ['close"', "1"]],
        ),
        (
            ['"never', "closed\t1"],
            ["has 1 columns, the header 2: where quotes hold its lines together give --quotes double", ["closed", "1"]],
        ),
    ],
)
def test_quotes_in_tsv_are_what_the_columns_say(lines: list[str], found: list[list[str] | str]) -> None:
    got = records("\n".join(["text\tlabel", *lines]) + "\n")[1:]
    assert len(got) == len(found)
    for one, expected in zip(got, found, strict=True):
        assert one.startswith(expected) if isinstance(expected, str) else one == expected


def test_a_bad_record_of_csv_is_one_line_and_reading_goes_on() -> None:
    text = 'text,label\n"open,1\ngood,0\nsaid "this",1\n"multi\nline",1\n"never closed,1\nlast,0\n'
    assert records(text, delimiter=",", quotes="double") == [
        ["text", "label"],
        "is not valid CSV: ',' expected after '\"'",
        ["good", "0"],
        ['said "this"', "1"],
        ["multi\nline", "1"],
        "is not valid CSV: unexpected end of data",
        ["last", "0"],
    ]


def test_what_is_held_for_a_quote_that_is_not_closed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CELL_LIMIT", 100)
    asked = 0

    def lines() -> Iterator[bytes]:
        nonlocal asked
        yield b'text\tlabel\n"open\t1\n'
        for _ in range(1000):
            asked += 1
            yield b"more\t0\n"

    found = read_records(read_lines(lines()), delimiter="\t", quotes="auto")
    assert [next(found).values, next(found).values] == [["text", "label"], ['"open', "1"]]
    assert asked < 30
    assert sum(1 for _ in found) == 1000
