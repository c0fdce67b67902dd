"""`subq reproduce`: what it lists, measures, keeps and refuses."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest

from subquadratic.cli import main as entry
from subquadratic.cli import reproduce
from subquadratic.cli.reproduce import gathered
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import Measurement, Setting
from subquadratic.reproduction.experiments import additive
from subquadratic.reproduction.progress import about


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(entry.VERBS, "reproduce", "measure claims")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("columns", [60, 100])
def test_the_list_fits_the_terminal(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert entry.main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines if line.startswith(tuple(CLAIMS))] == list(CLAIMS)
    assert all("not run yet" in line for line in lines if line.startswith(tuple(CLAIMS)))
    assert entry.main(["reproduce", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_a_claim_is_measured_told_and_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert entry.main(["reproduce", "fastformer.equations", "--out", "found", "--threads", "1"]) == 0
    told = capsys.readouterr()
    assert "fastformer.equations: holds" in told.out and "1 holds" in told.out
    assert all(f"yes {condition.text[:20]}" in told.out for condition in CLAIMS["fastformer.equations"].conditions)
    assert "1 of 1: fastformer.equations" in told.err
    assert entry.main(["reproduce", "--list", "fastformer.equations", "--out", "found", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["verdict"] == "holds" and listed["id"] == "fastformer.equations"
    assert entry.main(["reproduce", "--resume", "fastformer.equations", "--out", "found"]) == 0
    assert "1 kept as measured before" in capsys.readouterr().out


def test_claims_may_be_a_list_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[fastformer.equations, 'performer.l*']", "performer.lemma2,fastformer.equations"):
        Path("claims.yaml").write_text(f"claims: {text}\nlist: true\njson: true\n")
        assert entry.main(["reproduce", "--config", "claims.yaml"]) == 0
        assert [listed["id"] for listed in json.loads(capsys.readouterr().out)] == ["performer.lemma2", "fastformer.equations"]


def test_the_list_shows_what_fits_into_a_budget(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["performer.lemma2", "performer.theorem2", "perceiver.curriculum"]
    for name in names[:2]:
        monkeypatch.setitem(CLAIMS, name, dataclasses.replace(CLAIMS[name], experiment="kernels.both", seconds=80))
    assert entry.main(["reproduce", "--list", *names, "--budget", "100s"]) == 0
    told = capsys.readouterr().out
    assert "left out, since the budget is too small: perceiver.curriculum" in told and "2 claims, 80 s in all" in told
    assert entry.main(["reproduce", "--list", *names[:2]]) == 0
    assert "left out" not in capsys.readouterr().out
    assert entry.main(["reproduce", "--list", "--budget", "0.1s"]) == 0
    assert "0 claims" in capsys.readouterr().out


def test_a_result_of_an_older_form_is_listed_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fastformer.equations"
    assert entry.main(["reproduce", name]) == 0
    changed = dataclasses.replace(CLAIMS[name], conditions=CLAIMS[name].conditions[:1])
    monkeypatch.setitem(CLAIMS, name, changed)
    capsys.readouterr()
    assert entry.main(["reproduce", "--list", name, "--json"]) == 0
    assert [listed["verdict"] for listed in json.loads(capsys.readouterr().out)] == ["older form"]


def test_what_goes_on_is_said_where_nobody_sees_a_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = CLAIMS["fastformer.equations"]

    def slow(setting: Setting) -> Measurement:
        setting.say("step 3 of 9")
        time.sleep(0.2)
        return Measurement(numbers={condition.number: math.nan for condition in claim.conditions}, finding="It was slow.")

    monkeypatch.setattr(additive, "equations", slow)
    monkeypatch.setattr(reproduce, "QUIET_FILE", 0.02)
    assert entry.main(["reproduce", "fastformer.equations"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"1 of 1: fastformer.equations, about {about(claim.seconds)}\n")
    assert f"fastformer.equations: 0 s of about {about(claim.seconds)}: step 3 of 9\n" in told.err and "  It was slow.\n" in told.out


def test_a_failing_claim_is_a_result(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive.AdditiveAttention, "_mix", additive.RawKeyAttention._mix)
    assert entry.main(["reproduce", "fastformer.equations", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["verdict"] == "does not hold" and False in result["met"]
    assert entry.main(["reproduce", "fastformer.equations"]) == 0
    assert f"NO  {CLAIMS['fastformer.equations'].conditions[0].text[:20]}" in capsys.readouterr().out


def test_a_broken_measurement_is_exit_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "by_equations", lambda *_, **__: 1 / 0)
    assert entry.main(["reproduce", "fastformer.equations"]) == 1
    assert "broke: fastformer.equations: ZeroDivisionError" in " ".join(capsys.readouterr().out.split())


def test_a_budget_leaves_out_what_does_not_fit_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["reproduce", "fastformer.equations", "perceiver.curriculum", "--budget", "30s"]) == 0
    told = capsys.readouterr().out
    cost = about(CLAIMS["perceiver.curriculum"].seconds)
    assert f"left out: perceiver.curriculum: takes {cost}" in told and "fastformer.equations: holds" in told


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "name a claim, or give --all"),
        (["performer.lema2"], "did you mean 'performer.lemma2'?"),
        (["performer.lemma2", "--all"], "leave out the names of claims, or --all"),
        (["--all", "--budget", "soon"], "budget must be a time such as"),
        (["--all", "--budget", "0.1s"], "budget: nothing fits into 0.1 s"),
        (["performer.lemma2", "--seed", "-1"], "seed must be from 0 to 2**32 - 1, got -1"),
        (["performer.lemma2", "--seed", "2000000000000000"], "seed must be from 0 to 2**32 - 1, got 2000000000000000"),
        (["--config", "claims.yaml"], "claims must be text or a list of texts, got '3'"),
        (["performer.lemma2", "--threads", "0"], "threads must be at least 1, got 0"),
        (["performer.lemma2", "--sed", "1"], "did you mean --seed?"),
    ],
)
def test_bad_input_is_exit_status_2(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("claims.yaml").write_text("claims: 3\n")
    assert entry.main(["reproduce", *argv]) == 2
    told = capsys.readouterr()
    assert text in told.err and not told.out


def test_another_programs_results_are_not_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": 1, "cases": []}')
    assert entry.main(["reproduce", "fastformer.equations", "--out", "."]) == 2
    assert "holds no results of subq reproduce" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == '{"format": 1, "cases": []}'


def test_claims_may_stand_anywhere() -> None:
    assert gathered(["a.b", "--seed", "1", "c.*", "--json", "d.e"]) == ["--seed", "1", "--json", "--claims=a.b,c.*,d.e"]
    assert gathered(["--list", "a.b"]) == ["--list", "--claims=a.b"]
    assert gathered(["--all=true", "--budget=1h"]) == ["--all=true", "--budget=1h"]
