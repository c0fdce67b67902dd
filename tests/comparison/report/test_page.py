"""The page and the files beside it: whole, the same each time, and safe whatever users named."""

import csv
import html.parser
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.comparison import synthetic

from subquadratic.comparison.against import against
from subquadratic.comparison.report.csv_files import results_csv, speed_csv
from subquadratic.comparison.report.page import material, render
from subquadratic.comparison.report.write import write_report
from subquadratic.comparison.results import Comparison, load, save

CASES: dict[str, Any] = {
    "whole": synthetic.comparison, "failed": synthetic.one_failed_one_skipped, "one_seed": lambda: synthetic.comparison(seeds=1),
    "accuracy": lambda: synthetic.comparison(unit="accuracy"), "halfway": synthetic.halfway, "hostile": synthetic.hostile,
    "one_model": lambda: synthetic.comparison(names=("performer",)),
    "many": lambda: synthetic.comparison(names=(*synthetic.OURS, *"abcdefgh")),
    "nothing": lambda: Comparison(settings={}, machine={}, data={}, unit="bits/token"),
}  # fmt: skip
VOID = {"meta", "link", "br", "img", "path", "rect"}


class Reader(html.parser.HTMLParser):
    """What a page holds: text, tags with attributes, and whether tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(params=CASES)
def page(request: pytest.FixtureRequest) -> str:
    return render(material(CASES[request.param]()))


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    read = Reader(page)
    assert read.open == []
    assert not [
        value for _, attributes in read.tags for name, value in attributes.items() if name in ("src", "srcset") or name.startswith("on")
    ]
    assert all((attributes.get("href") or "#").startswith(("#", "data:")) for tag, attributes in read.tags)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert [tag for tag, _ in read.tags].count("script") == 1


def test_it_can_be_walked_by_headings_and_tables(page: str) -> None:
    read = Reader(page)
    ids = [attributes["id"] for _, attributes in read.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for name in ("aria-labelledby", "href"):
        said = [word for _, attributes in read.tags for word in (attributes.get(name) or "").split() if not word.startswith("data:")]
        assert {word.removeprefix("#") for word in said} <= set(ids)
    kinds = [tag for tag, _ in read.tags]
    assert kinds.count("caption") == kinds.count("table") and kinds.count("svg") == kinds.count("figure") == kinds.count("desc")
    assert all(attributes.get("scope") for tag, attributes in read.tags if tag == "th")
    assert {"header", "nav", "main", "footer"} <= set(kinds) and kinds.count("main") == 1


def test_what_users_named_is_shown_and_not_obeyed() -> None:
    page = render(material(synthetic.hostile()))
    text = "".join(Reader(page).text)
    assert '<script>alert("x")</script>&amp;' in text  # as text
    assert "\u202e" not in page  # it would turn what follows around
    assert "{{ 7 * 7 }}" in text and " tail </pre>" in text
    assert page.count("<script") == 1 and not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", page)
    page.encode("utf-8")


@pytest.mark.parametrize("case", CASES)
def test_all_files_are_written_whole_and_the_same_each_time(case: str, tmp_path: Path) -> None:
    save(CASES[case](), tmp_path / "results.json") if case != "hostile" else None
    made = CASES[case]() if case == "hostile" else load(tmp_path / "results.json")
    written = write_report(made, tmp_path / "one")
    again = write_report(CASES[case](), tmp_path / "two")
    assert [path.relative_to(tmp_path / "one") for path in written] == [path.relative_to(tmp_path / "two") for path in again]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(written, again, strict=True))
    assert written[0].name == "report.html" and {path for path in (tmp_path / "one").rglob("*") if path.is_file()} == set(written)


def test_charts_that_are_gone_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    write_report(synthetic.comparison(), tmp_path)
    (tmp_path / "charts" / "mine.svg").write_text("mine")
    assert (tmp_path / "charts" / "length-train-seconds.svg").exists()
    write_report(synthetic.halfway(), tmp_path)
    assert not (tmp_path / "charts" / "length-train-seconds.svg").exists()
    assert (tmp_path / "charts" / "mine.svg").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "results.csv"])
def test_files_of_others_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"has {name}, which subq report did not write"):
        write_report(synthetic.comparison(), tmp_path)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_the_table_of_results_has_the_numbers_of_the_json() -> None:
    found = synthetic.comparison()
    text = " ".join(" ".join(Reader(render(material(found))).text).split())
    for name, words in (("performer", "Performer"), ("transformer", "exact attention"), ("perceiver_ar", "Perceiver AR")):
        values = [trial.value for trial in found.trials if trial.entry == name and trial.value is not None]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert f"{words} {np.mean(values):.3f} {np.std(values, ddof=1):.4f} {low:.3f} to {high:.3f}" in text


def test_csv_files() -> None:
    found = synthetic.one_failed_one_skipped()
    found.trials[0].error, found.entries[0].source = '=1+1,"x"\nline', "file"
    rows = list(csv.DictReader(io.StringIO(results_csv(found))))
    assert len(rows) == 18 + 1
    assert rows[0]["error"] == '\'=1+1,"x"\nline'
    for row, trial in zip([row for row in rows if row["status"] != "skipped"], found.trials, strict=True):
        assert (row["entry"], int(row["seed"]), row["status"]) == (trial.entry, trial.seed, trial.status)
        assert row["value"] == ("" if trial.value is None else repr(trial.value))
    assert [row["skipped"] for row in rows if row["status"] == "skipped"] == [found.entry("feedback_transformer").skipped]
    speeds = list(csv.DictReader(io.StringIO(speed_csv(found))))
    assert len(speeds) == len(found.speeds)
    for row, speed in zip(speeds, found.speeds, strict=True):
        assert row["note"] == speed.note and (
            row["train_seconds_median"] == repr(sorted(speed.train_seconds)[3]) if speed.train_seconds else not row["train_seconds_median"]
        )


def test_two_comparisons_on_one_page() -> None:
    here, there = synthetic.comparison(), synthetic.comparison(seed=3, names=("performer", "transformer"))
    there.settings["run_seconds"], there.machine["packages"] = 600.0, {**there.machine["packages"], "torch": "9.9"}
    text = " ".join(" ".join(Reader(render(material(here, against(here, there)))).text).split())
    assert "Beside the other comparison" in text and "training of a run, s 120 600" in text and "torch 2.13.0+cpu 9.9" in text
