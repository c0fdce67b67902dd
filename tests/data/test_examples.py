import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader

from subquadratic.data import ByteTokenizer, Examples, collate, load_examples

BYTES = ByteTokenizer()
ROWS = [{"text": f'row {i}, "quoted"\nover two lines — é', "label": ("no", "yes")[i % 2], "title": f"title {i}"} for i in range(200)]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=30)
    return path


def pairs(examples: Examples) -> set[tuple[str, str]]:
    items = [side[i] for side in (examples.train, examples.validation) for i in range(len(side))]
    return {(BYTES.decode(item["tokens"]), examples.labels[item["label"]]) for item in items}


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    paths = [
        write_csv(tmp_path / "a.csv", ROWS),
        write_csv(tmp_path / "a.tsv", ROWS, "\t"),
        write_jsonl(tmp_path / "a.jsonl", ROWS),
        write_parquet(tmp_path / "a.parquet", ROWS),
    ]
    found = [load_examples(path, label="label") for path in paths]
    assert len({examples.digest for examples in found}) == 1
    assert pairs(found[0]) == {(row["text"], row["label"]) for row in ROWS}
    assert found[0].labels == ("no", "yes")
    assert found[0].longest == (max(len(row["text"].encode()) for row in ROWS),)
    assert found[0].train[0]["tokens"].dtype == torch.int64
    assert "hash" in found[0].split
    assert 5 < len(found[0].validation) < 40


def test_equal_texts_are_on_one_side(tmp_path: Path) -> None:
    examples = load_examples(write_jsonl(tmp_path / "a.jsonl", [*ROWS, *ROWS]), label="label")
    sides = [{tuple(side[i]["tokens"].tolist()) for i in range(len(side))} for side in (examples.train, examples.validation)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 200


def test_few_rows_are_told_apart_by_number(tmp_path: Path) -> None:
    examples = load_examples(write_jsonl(tmp_path / "a.jsonl", ROWS[:2]), label="label")
    assert (len(examples.train), len(examples.validation)) == (1, 1)
    assert "every tenth" in examples.split


def test_labels_are_numbers_in_their_order_where_all_are(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 12} for i in range(100)]
    assert load_examples(write_jsonl(tmp_path / "a.jsonl", rows), label="label").labels == tuple(map(str, range(12)))
    mixed = [*rows, {"text": "t", "label": "x"}, {"text": "u", "label": True}]
    assert load_examples(write_jsonl(tmp_path / "a.jsonl", mixed), label="label").labels[-2:] == ("true", "x")


def test_pairs_have_a_beginning_and_an_end(tmp_path: Path) -> None:
    examples = load_examples(write_csv(tmp_path / "a.csv", ROWS), target="title")
    item = examples.train[0]
    assert item["target"][0] == BYTES.bos_token and item["target"][-1] == BYTES.eos_token
    row = next(row for row in ROWS if row["text"] == BYTES.decode(item["source"]))
    assert BYTES.decode(item["target"]) == row["title"]
    assert examples.labels == () and examples.longest[1] == len("title 100") + 2


def test_cutting_is_said(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    examples = load_examples(path, label="label", max_length=5)
    assert examples.longest == (5,) and examples.truncated == 200
    assert "200 of them cut to 5" in examples.describe()
    cut = load_examples(path, target="title", max_length=5)
    assert cut.longest == (5, 5)
    assert cut.train[0]["target"].tolist() == [BYTES.bos_token, *b"tit", BYTES.eos_token]
    assert "of them" not in load_examples(path, label="label").describe()


def test_rows_without_text_are_left_out_and_said(tmp_path: Path) -> None:
    examples = load_examples(write_jsonl(tmp_path / "a.jsonl", [*ROWS, {"text": " ", "label": "yes"}]), label="label")
    assert examples.skipped == 1 and "rows without text left out: 1" in examples.describe()


def test_the_digest_follows_labels_and_length(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    other = write_jsonl(tmp_path / "b.jsonl", [{**ROWS[0], "label": "yes"}, *ROWS[1:]])
    found = [load_examples(path, label="label"), load_examples(path, target="title"), load_examples(path, label="label", max_length=9)]
    assert len({examples.digest for examples in [*found, load_examples(other, label="label")]}) == 4


def test_a_batch_is_padded_on_the_right_with_masks(tmp_path: Path) -> None:
    examples = load_examples(write_csv(tmp_path / "a.csv", ROWS), label="label")
    batch = next(iter(DataLoader(examples.train, batch_size=7, collate_fn=lambda items: collate(items, BYTES.pad_token), shuffle=True)))
    assert set(batch) == {"tokens", "mask", "label"}
    assert batch["mask"].dtype == torch.bool
    assert (batch["tokens"] == BYTES.pad_token).equal(~batch["mask"])
    assert batch["mask"][:, 0].all()
    items = [{"source": torch.tensor([1, 2]), "target": torch.tensor([3])}, {"source": torch.tensor([4]), "target": torch.tensor([5, 0])}]
    batch = collate(items, 0)
    assert batch["source"].tolist() == [[1, 2], [4, 0]] and batch["source_mask"].tolist() == [[True, True], [True, False]]
    assert batch["target"].tolist() == [[3, 0], [5, 0]] and batch["target_mask"].tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (['{"text": "a", "label": 1}', '{"text": '], {"label": "label"}, r"a\.jsonl:2 is not valid JSON: .* column"),
        (['{"text": "a", "label": 1}', "[1]"], {"label": "label"}, r"a\.jsonl:2 must hold a JSON object"),
        (['{"body": "a", "label": 1}'], {"label": "label"}, r"text: .*a\.jsonl:1 has no field 'text'; its fields are 'body', 'label'"),
        (['{"text": "a", "label": 1}'], {"label": "lable"}, r"did you mean --label label\?"),
        (['{"text": 7, "label": 1}'], {"label": "label"}, r"'text' of .*a\.jsonl:1 must be text, got int 7"),
        (['{"text": null, "label": 1}'], {"label": "label"}, "has 0 rows with text"),
        (['{"text": "a", "label": NaN}'], {"label": "label"}, r"label: .*:1 must be text or an integer, got nothing; --skip_bad_rows"),
        (['{"text": "a", "label": " "}'], {"label": "label"}, "must be text or an integer, got nothing"),
        (['{"text": "a", "target": ""}'], {"target": "target"}, "target: the field 'target' of .*:1 must be text, got nothing"),
        (['{"text": "a", "label": ' + "1" * 5000 + "}"], {"label": "label"}, r"a\.jsonl:1 is not JSON that can be read"),
        (['{"text": "a", "label": null}'], {"label": "label"}, r"label: the field 'label' of .*:1 must be text or an integer, got nothing"),
        (['{"text": "a", "label": 0.5}'], {"label": "label"}, "got float 0.5"),
        (['{"text": "a", "label": 1}', "", '{"text": "b", "label": 1}'], {"label": "label"}, "at least two classes"),
        (['{"text": "a", "label": 1}'], {"label": "label"}, "at least 2 are needed"),
        ([], {"label": "label"}, "has 0 rows"),
        ([json.dumps({"text": "a", "label": i}) for i in range(60)], {"label": "label"}, "60 different labels in the 60 rows"),
        (['{"text": '], {"label": "label"}, "Expecting value at column 10"),
        (["[" * 100_000], {"label": "label"}, ":1 is not"),
        ([], {}, "one of label and target"),
        ([], {"label": "a", "target": "b"}, "one of label and target"),
        ([], {"target": "b", "max_length": 1}, "max_length must be at least 2"),
        ([], {"label": "b", "max_length": 0}, "max_length must be an integer of at least 1"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, lines: list[str], options: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        load_examples(path, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv is empty"),
        (b"text,label\na,1\nb,2,3\n", r"a\.csv:3 has 3 columns, the header 2"),
        (b'text,label\na,1\n"b,2\n', r"a\.csv:3 is not valid CSV: unexpected end of data"),
        (b"text,label\na,1\n\xff,2\n", "not UTF-8 at byte 15"),
        (b"txt;label\na;1\n", "has no field 'text'; its fields are 'txt', 'label'; did you mean --text txt"),
    ],
)
def test_bad_csv_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_examples(tmp_path / "a.csv", label="label")


def test_bad_parquet_is_refused_by_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(ValueError, match="has no field 'body'; its fields are 'text', 'label', 'title'"):
        load_examples(path, text="body", label="label")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged, cut short, or not parquet"):
        load_examples(path, label="label")


def test_only_tables_have_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for data in (tmp_path / "a.txt", tmp_path, None):
        with pytest.raises(ValueError, match=r"rows come from \.jsonl"):
            load_examples(data, label="label")
    write_csv(tmp_path / "a.csv", ROWS[:50])
    write_csv(tmp_path / "b.csv", ROWS[50:])
    assert len(load_examples(tmp_path, label="label").train) + len(load_examples(tmp_path, label="label").validation) == 200
