"""Cases by name, suites, and what they run against."""

import pytest

from subquadratic.benchmark.cases import KINDS, MODES, Case, Sizes, is_ours, label, modes
from subquadratic.benchmark.results import Run
from subquadratic.benchmark.suites import SUITES, only_against, registry, select, suite
from subquadratic.benchmark.targets import TARGETS, judge


def test_every_kind_has_every_mode_that_it_can() -> None:
    names = set(registry(lengths=(128,)))
    for kind, subjects in KINDS.items():
        for subject in subjects:
            for mode in MODES:
                assert (f"{kind}/{subject}/{mode}/128" in names) == (mode in modes(kind, subject))
    assert modes("model", "performer") == tuple(MODES)
    assert modes("model", "performer-bidirectional") == ("forward", "train")
    assert modes("op", "window-attention") == ("forward", "train")
    assert modes("op", "favor") == ("forward", "train", "decode")


def test_suites_have_no_case_twice_and_full_has_what_targets_need() -> None:
    for name in SUITES:
        names = [case.name for case in suite(name, cuda=True)]
        assert len(names) == len(set(names))
    run = Run(machine={}, settings={"device": "cpu"})
    assert all(verdict.met is None for verdict in judge(run))  # and none fails where nothing was measured
    assert len(judge(run)) == sum(not target.cuda for target in TARGETS)


def test_everything_has_what_each_target_looks_at() -> None:
    names = {case.name for case in suite("full")}
    assert "model/performer/train/16384" not in names and "lengths/train/16384" in names
    assert {f"lengths/train/{1024 * 2**power}" for power in range(7)} <= names
    assert {"import/subquadratic", "million/performer/train/1048576", "model/feedback_transformer/train/256x8"} <= names
    assert "op/favor/train/16384" in {case.name for case in suite("full", cuda=True)} - names


def test_patterns_choose_and_lengths_may_be_spelled_out() -> None:
    cases = registry()
    chosen = [case.name for case in select(["model/*former/train/4096", "import/*"], cases)]
    assert chosen[-1] == "import/subquadratic"
    assert "model/performer/train/4096" in chosen and "model/perceiver_ar/train/4096" not in chosen
    (own,) = select(["model/performer/train/300x2"], cases)
    assert (own.length, own.batch, own.sides[0]) == (300, 2, "performer")
    for wrong in ("model/perfomer/train/1024", "model/performer-bidirectional/decode/300", "model/performer/train/0", "nothing"):
        with pytest.raises(ValueError, match="there is no case"):
            select([wrong], cases)
    with pytest.raises(ValueError, match="did you mean 'model/performer/train/1024'"):
        select(["model/perfomer/train/1024"], cases)


def test_competitors_can_be_left_out() -> None:
    (case,) = select(["model/performer/train/1024"], registry(sizes=Sizes(dim=64)))
    assert case.sides == ("performer", "published", "x-transformers")
    assert only_against(case, []).sides == ("performer",)
    assert only_against(case, ["published"]).sides == ("performer", "published")
    (long,) = select(["lengths/train/4096"], registry())
    assert set(long.sides) - set(only_against(long, []).sides) == {"x-transformers"}  # the others are ours
    with pytest.raises(ValueError, match="did you mean 'published'"):
        only_against(case, ["publisht"])


def test_sides_have_names_that_people_know() -> None:
    case = Case(name="x", kind="model", mode="decode", sides=("linformer-bidirectional", "published", "exact", "self@100"), length=1)
    assert [label(side, case) for side in case.sides[1:]] == [
        "linformer", "exact attention (ours)", "linformer-bidirectional after 100",
    ]  # fmt: skip
    assert [is_ours(side) for side in case.sides] == [True, False, True, False]


def test_a_case_comes_back_from_plain_values() -> None:
    for case in registry().values():
        assert Case.from_dict(case.to_dict()) == case


def test_sizes_are_checked() -> None:
    assert Sizes().features == 266
    with pytest.raises(ValueError, match="multiple of heads"):
        Sizes(dim=30, heads=4)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        Sizes(depth=0)
    with pytest.raises(ValueError, match="did you mean 'targets'"):
        suite("target")
