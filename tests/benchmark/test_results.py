"""Results on disk and on paper: the file, the table, the targets and the drawings."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from subquadratic.benchmark.growth import LINES, crossover, crossovers, curves, slopes
from subquadratic.benchmark.plots import draw, ends
from subquadratic.benchmark.report import markdown, rows, seconds
from subquadratic.benchmark.results import Result, Run, Side, load, same_conditions, save
from subquadratic.benchmark.suites import registry
from subquadratic.benchmark.targets import judge, slope

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "threads": 2,
    "gpu": None,
    "python": "3.11",
    "packages": {"torch": "2.13"},
    "date": "2026",
}


def make_run(*results: Result) -> Run:
    return Run(machine=dict(MACHINE), settings={"device": "cpu", "dtype": "float32"}, results=list(results))


def measured(name: str, *sides: Side) -> Result:
    return Result(case=registry()[name], sides=list(sides), rates={"matmul": 1e11, "linear": None, "copy": 1e10}, seconds=1.0)


def along(power: float) -> list[Result]:
    """Lengths at which ours takes n ** power, and exact attention n ** 2, more up to n = 8,192."""
    found = []
    for length in (1024, 4096, 16384, 65536):
        ours = Side(name="performer", seconds=[length**power] * 3, tokens=length, above_bytes=length)
        exact = Side(name="x-transformers", seconds=[length**2 / 8192 ** (2 - power)] * 3, tokens=length, above_bytes=2 * length)
        decode = Side(name="performer", seconds=[0.1, 0.2, 0.3], tokens=8)
        found.append(measured(f"lengths/train/{length}", ours, exact))
        found.append(
            Result(
                case=dataclasses.replace(registry()["lengths/decode/1000"], name=f"lengths/decode/{length}", length=length), sides=[decode]
            )
        )
    return found


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    side = Side(name="performer", seconds=[0.1, 0.3, 0.2], tokens=2048, parameter_bytes=12, above_bytes=34, floor_seconds=0.05, note="é")
    run = make_run(measured("model/performer/train/2048", side), Result(case=registry()["op/favor/train/1024"], refused="wrong"))
    save(run, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == run
    assert json.loads((tmp_path / "results.json").read_text())["cases"][0]["sides"][0]["seconds"] == [0.1, 0.3, 0.2]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_newer_result_takes_the_place_of_the_older() -> None:
    run = make_run(measured("model/performer/train/2048"))
    run.add(measured("model/performer/train/2048", Side(name="performer")))
    assert len(run.results) == 1 and run.results[0].sides


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 7}', '{"format": 1, "machine": {}, "settings": {}, "cases": [{}]}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="holds no results of subq bench"):
        load(tmp_path / "results.json")
    with pytest.raises(ValueError, match="cannot read"):
        load(tmp_path / "missing.json")


def test_only_results_of_one_machine_stand_side_by_side() -> None:
    one, other = make_run(), make_run()
    assert same_conditions(one, other) is None
    other.machine["threads"] = 1
    assert same_conditions(one, other) == "threads was 2, and is 1"
    other = make_run()
    other.settings["dtype"] = "bfloat16"
    assert same_conditions(one, other) == "dtype was float32, and is bfloat16"
    one, other = make_run(), make_run()
    one.settings["freed memory"], other.settings["freed memory"] = "kept", "given back"
    assert same_conditions(one, other) == "freed memory was kept, and is given back"
    assert "float32, freed memory kept;" in markdown(one)


def test_ratios_are_of_rounds_and_per_token() -> None:
    ours, theirs = Side(name="performer", seconds=[1.0, 2.0, 4.0], tokens=8), Side(name="published", seconds=[3.0, 3.0, 3.0], tokens=1)
    found = measured("model/performer/decode/2048", ours, theirs)
    assert found.ratios("published") == [24.0, 12.0, 6.0]
    row = list(rows(found))[1]
    assert row[1] == "performer-pytorch" and row[-1] == "12 (6 to 24)" and row[2] == "3.00 s/token"


def test_a_refused_case_and_a_missing_side_say_why() -> None:
    (row,) = rows(Result(case=registry()["op/favor/train/1024"], refused="favor: it leaks"))
    assert row[1] == "refused: favor: it leaks"
    found = measured(
        "model/performer/train/2048", Side(name="performer", seconds=[1.0], tokens=1), Side(name="published", note="not installed")
    )
    assert list(rows(found))[1][1] == "performer-pytorch: not installed"


def test_targets_are_judged_and_missed_ones_show_what_the_floor_allows() -> None:
    ours = Side(name="performer", seconds=[1.0] * 3, tokens=2048, floor_seconds=0.5, above_bytes=100)
    theirs = Side(name="published", seconds=[8.0] * 3, tokens=2048, above_bytes=1300)
    run = make_run(measured("model/performer/train/2048", ours, theirs))
    found = {verdict.target.text: verdict for verdict in judge(run) if verdict.value is not None}
    faster, lighter = found.values()
    assert (faster.value, faster.met, faster.reachable) == (8.0, False, 16.0)
    assert (lighter.value, lighter.met) == (13.0, True)
    text = markdown(run)
    assert "| at least 10.0x | 8.00x | missed; at the floor it would be 16.0x |" in text
    assert "| at most 1/12.0 | 1/13.0 | met |" in text


def test_a_target_may_be_read_from_another_case() -> None:
    def verdict(run: Run, name: str) -> object:
        text = f"{name}, training step, N = 16,384, against exact attention"
        return next(verdict for verdict in judge(run) if verdict.target.text == text).value

    assert verdict(make_run(*along(1.0)), "causal Performer") == pytest.approx(2.0)
    sides = [Side(name=f"{name}former-bidirectional", seconds=[time], tokens=1) for name, time in (("lin", 1.0), ("fast", 0.5))]
    found = measured("model/linformer-bidirectional/train/16384", *sides, Side(name="x-transformers", seconds=[10.0], tokens=1))
    assert verdict(make_run(found), "linformer-bidirectional") == 10.0
    assert verdict(make_run(found), "fastformer-bidirectional") == 20.0
    assert verdict(make_run(found), "causal Performer") is None


def test_a_million_tokens_are_held_against_the_runs_before_and_after() -> None:
    long = Side(name="performer", seconds=[1048.576 * 1.1], tokens=1_048_576, peak_bytes=int(2e9))
    short = Side(name="self@65536", seconds=[60.0, 71.072], tokens=65_536)  # one thousandth of a second a token on average
    found = {v.target.text: v for v in judge(make_run(measured("million/performer/train/1048576", long, short))) if v.value is not None}
    peak, pace = found.values()
    assert (peak.value, peak.met) == (2e9, True)
    assert pace.value == pytest.approx(1.1) and pace.met


def test_the_slope_is_that_of_the_logarithms() -> None:
    assert slope(make_run(*along(1.25)), "performer") == pytest.approx(1.25)
    assert slope(make_run(*along(1.25)[:4]), "performer") is None
    verdict = next(verdict for verdict in judge(make_run(*along(1.0))) if "causal performer, slope" in verdict.target.text)
    assert verdict.met and verdict.value == pytest.approx(1.0)


def test_the_crossing_is_where_ours_becomes_the_faster() -> None:
    lines = curves(make_run(*along(1.0)), LINES["length"], lambda side: side.time)
    cross = crossover(lines["performer"], lines["x-transformers"])
    assert cross is not None and cross == pytest.approx((8192, 8192))
    assert crossover(lines["x-transformers"], lines["performer"]) is None
    assert crossover([(1, 1.0), (2, 1.0)], [(1, 2.0), (2, 2.0)]) is None


@pytest.mark.parametrize(
    ("note", "label"),
    [
        ("would take more than 60 s a call", "over 60 s"),
        ("one call takes 63 s, more than 60 s", "over 60 s"),
        ("failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 8 GiB", "out of memory"),
        ("failed: RuntimeError: DefaultCPUAllocator: can't allocate memory", "out of memory"),
        ("failed: TypeError: no such keyword", "failed"),
        ("", "not measured"),
    ],
)
def test_a_line_that_ends_says_why(note: str, label: str) -> None:
    results = along(1.0)
    for result in results:
        for side in result.sides:
            if side.name == "x-transformers" and result.case.length > 4096:
                side.seconds, side.note = [], note
    assert ends(make_run(*results), LINES["length"], lambda side: side.time) == {"x-transformers": label}


def test_what_grows_has_a_slope_and_what_overtakes_a_length(tmp_path: Path) -> None:
    def sides(**seconds: float) -> list[Side]:
        return [Side(name=name, seconds=[value], tokens=1) for name, value in seconds.items()]

    growing = [measured(f"batches/train/512x{b}", *sides(performer=b, linformer=b**1.5)) for b in (1, 2, 4)]
    lengths = (256, 512, 1024, 2048)
    overtaking = [
        measured(f"crossover/train/{n}x8", *sides(performer=n * 1e3, fastformer=1.0, linformer=2.0 * n**2, transformer=n**2))
        for n in lengths
    ]
    run = make_run(*growing, *overtaking)
    assert slopes(run)["batch"] == {"performer": pytest.approx(1), "linformer": pytest.approx(1.5)}
    assert "width" not in slopes(run) and slopes(run)["length, 8 sequences"]["transformer"] == pytest.approx(2)
    assert crossovers(run) == {"8 sequences": {"performer": "1,000", "fastformer": "256 or fewer", "linformer": "not up to 2,048"}}
    text = markdown(run)
    assert "| linformer | " in text and "## Faster in training than exact attention" in text
    assert [path.name for path in draw(run, tmp_path)] == ["train_time_8.png", "batch_time.png"]


def test_table_and_drawings_come_from_the_file(tmp_path: Path) -> None:
    run = make_run(*along(1.0))
    drawn = draw(run, tmp_path)
    assert [path.name for path in drawn] == ["train_time.png", "train_memory.png", "decode_latency.png"]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert draw(make_run(run.results[0]), tmp_path / "none") == []
    text = markdown(run)
    assert "a processor, 2 cores, 2 thread(s), float32" in text and "| lengths/train/4096 | performer |" in text


def test_times_have_three_digits() -> None:
    assert [seconds(value) for value in (123.4, 1.5, 0.0123, 4.56e-5)] == ["123 s", "1.50 s", "12.3 ms", "45.6 us"]
    assert math.isclose(Side(name="x", seconds=[1.0, 3.0], tokens=4).per_token or 0, 0.5)
