"""Cases are really measured, and nothing is measured that is wrong."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from subquadratic.benchmark import competitors, imports, models, run
from subquadratic.benchmark.cases import Case, Sizes
from subquadratic.benchmark.checks import causal, same_shape_and_finite, within
from subquadratic.benchmark.floor import floor_of
from subquadratic.benchmark.machine import facts, measure_rates
from subquadratic.benchmark.memory import in_fresh_process, peak_above, resident
from subquadratic.benchmark.results import NAME, Result, load
from subquadratic.benchmark.run import measure
from subquadratic.benchmark.suites import import_case, registry, select, suite
from subquadratic.benchmark.work import Setting

SIZES = Sizes(dim=64, depth=1, heads=2, slots=16, memories=16)  # two heads of 32: the least that perceiver-ar-pytorch takes
PROBE = {"side": 256, "numbers": 1 << 18, "tries": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquadratic.benchmark.timing.SHORT", 1e-6)


def tiny(*patterns: str, **changes: Any) -> list[Case]:
    chosen = select(patterns, registry(sizes=SIZES, lengths=(48,)))
    return [dataclasses.replace(case, rounds=1, least=1, memory=False, **changes) for case in chosen]


def run_tiny(*patterns: str, **changes: Any) -> dict[str, Result]:
    return {result.case.name: result for result in measure(tiny(*patterns, **changes), probe=PROBE).results}


@pytest.mark.parametrize(
    "pattern",
    ["op/*/train/48", "op/*/decode/48", "layer/*/forward/48", "layer/favor/*/48", "model/*former/prefill/48", "model/performer/decode/48"],
)
def test_every_kind_and_mode_gives_times_and_a_share_of_the_floor(pattern: str) -> None:
    for name, result in run_tiny(pattern).items():
        assert not result.refused, (name, result.refused)
        side = result.sides[0]
        assert len(side.seconds) == 1 and side.tokens > 0
        assert side.share_of_floor is not None and 0 < side.share_of_floor < 1, name


@pytest.mark.parametrize(
    "name",
    ["performer", "performer-bidirectional", "linformer-bidirectional", "fastformer-bidirectional", "perceiver_ar", "feedback_transformer"],
)
def test_published_packages_run_beside_ours(name: str) -> None:
    (result,) = run_tiny(f"model/{name}/train/48").values()
    assert not result.refused, result.refused
    theirs = result.side("published")
    assert theirs is not None and theirs.seconds and not theirs.note, theirs
    assert theirs.tokens == result.sides[0].tokens and len(result.ratios("published")) == 1


def test_everyday_cases_give_times_of_real_tokens() -> None:
    once: dict[str, Any] = {"rounds": 1, "least": 1}
    cases = {case.name: case for case in suite("everyday", sizes=SIZES)}
    padded = dataclasses.replace(cases["crossover/padded/256x8"], length=24, row_lengths=(24, 3, 9, 0), batch=4, **once)
    masked = dataclasses.replace(cases["padded/performer-bidirectional/train/2048x8"], length=9, row_lengths=(9, 1, 5), batch=3, **once)
    extend = dataclasses.replace(cases["model/performer/extend/64x32"], batch=2, **once)
    default = dataclasses.replace(cases["default/performer/train"], length=32, **once)
    found = {result.case.name: result for result in measure([padded, masked, extend, default], probe=PROBE, memory=False).results}
    assert all(not result.refused and all(side.seconds for side in result.sides) for result in found.values()), found
    assert [side.tokens for side in found[padded.name].sides] == [36] * 5
    assert [side.tokens for side in found[masked.name].sides] == [15, 15, 15]  # unpadded: three rows of five
    share = found[masked.name].side("unpadded")
    assert share is not None and share.share_of_floor is not None
    assert found[extend.name].sides[0].tokens == 2 * 64 and found[extend.name].sides[0].state_bytes > 0
    assert found[default.name].sides[0].share_of_floor is None


def test_weights_in_8_bits_beside_float32() -> None:
    wide = {case.name: case for case in suite("everyday", sizes=SIZES)}["wide/performer/decode/64x8"]
    assert (wide.sizes.dim, wide.sizes.depth, wide.batch) == (1024, 12, 8)
    small = dataclasses.replace(wide, sizes=SIZES, batch=2, rounds=1, least=1)
    trained = dataclasses.replace(tiny("model/performer/train/48")[0], sides=("performer", "int8"))
    decoding, training = measure([small, trained], probe=PROBE, memory=False).results
    assert [side.note for side in decoding.sides] == ["", ""] and all(side.seconds for side in decoding.sides)
    assert decoding.sides[0].tokens == decoding.sides[1].tokens == 2 * models.NEW_TOKENS and len(decoding.ratios("int8")) == 1
    assert "not trained" in training.sides[1].note


def test_the_tokens_of_padded_rows_are_the_work_of_the_floor() -> None:
    (case,) = select(["padded/transformer/train/2048x8"], registry())
    rows = [dataclasses.replace(case, batch=1, length=length, row_lengths=()) for length in case.row_lengths]
    floors = [floor_of("transformer", row, parameter_bytes=0) for row in rows]
    whole = floor_of("transformer", case, parameter_bytes=0)
    assert whole is not None and whole.flops == sum(floor.flops for floor in floors if floor is not None)
    assert whole.bytes == sum(floor.bytes for floor in floors if floor is not None)


def test_x_transformers_and_the_published_generate() -> None:
    pytest.importorskip("x_transformers")
    long = run_tiny("lengths/train/48")["lengths/train/48"]
    assert [side.note for side in long.sides] == [""] * 8 and all(side.seconds for side in long.sides)
    decode = dataclasses.replace(tiny("model/performer/decode/48")[0], sides=("performer", "published", "self@8", "x-transformers"))
    (result,) = measure([decode], probe=PROBE).results
    assert [bool(side.seconds) for side in result.sides] == [True, True, True, False]
    assert [side.tokens for side in result.sides] == [models.NEW_TOKENS, 1, models.NEW_TOKENS, 0]
    assert "not asked to decode" in result.sides[3].note
    assert result.sides[0].state_bytes == result.sides[2].state_bytes > 0


def test_a_token_reads_one_row_of_a_table() -> None:
    found = run_tiny("model/linformer/decode/48", "model/fastformer/decode/48", "layer/low-rank/decode/48")
    room, slots = 48 + models.NEW_TOKENS + 1, 2 * SIZES.slots
    for name, kept in (("model/linformer/decode/48", room * slots + 256 * 64), ("model/fastformer/decode/48", 256 * 64)):
        case = found[name].case
        model = models.LanguageModel(models.config_of(case.sides[0], case))
        assert found[name].sides[0].parameter_bytes == 4 * (sum(parameter.numel() for parameter in model.parameters()) - kept)
    assert found["layer/low-rank/decode/48"].sides[0].parameter_bytes == 4 * (4 * 64 * 64 + 64)  # four maps and a bias


def test_a_model_that_leaks_the_future_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = models.LanguageModel.forward

    def leaking(self: Any, tokens: torch.Tensor, **rest: Any) -> torch.Tensor:
        return shifted(self, tokens, **rest) + 1e-6 * tokens.float().mean()

    monkeypatch.setattr(models.LanguageModel, "forward", leaking)
    (result,) = run_tiny("model/performer/forward/48").values()
    assert "changing the future changes the past" in result.refused
    assert not any(side.seconds for side in result.sides)


def test_other_faults_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(competitors, "_logits", lambda model, tokens: torch.full((1, 48, 256), torch.nan))
    (result,) = run_tiny("model/linformer-bidirectional/train/48").values()
    assert result.refused == "linformer: the loss is nan"
    zeros = torch.zeros(1, 3, 2)
    assert "shape (1, 3, 2), ours (1, 3, 4)" in str(same_shape_and_finite(zeros, (1, 3, 4), zeros.sum()))
    assert within(torch.ones(3), torch.ones(3), tolerance=1e-3, what="x") is None
    for found in (torch.full((3,), 1.01), torch.full((3,), torch.nan)):
        assert "x: differs by" in str(within(found, torch.ones(3), tolerance=1e-3, what="x"))
    assert causal(zeros, zeros + torch.tensor([0.0, 0.0, 1.0])[:, None], 1) is None
    assert causal(zeros, zeros + torch.tensor([0.0, 1e-30, 1.0])[:, None], 1) is not None


def test_what_is_not_installed_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(competitors.importlib, "import_module", missing)
    (result,) = run_tiny("model/performer/train/48").values()
    assert result.sides[0].seconds and not result.refused
    assert [side.note for side in result.sides[1:]] == ["performer-pytorch is not installed", "x-transformers is not installed"]


def test_ours_that_fails_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(competitors, "build_layer", no_room)
    found = run_tiny("layer/favor/forward/48", "op/favor/forward/48")
    assert found["layer/favor/forward/48"].refused == "favor: failed: RuntimeError: not enough memory"
    assert found["op/favor/forward/48"].sides[0].seconds


def test_a_competitor_that_cannot_run_does_not_stop_ours() -> None:
    narrow = dataclasses.replace(tiny("model/perceiver_ar/train/48")[0], sizes=dataclasses.replace(SIZES, heads=8))
    (result,) = measure([narrow], probe=PROBE).results
    theirs = result.side("published")
    assert result.sides[0].seconds and theirs is not None and theirs.note.startswith("failed: RuntimeError")


def test_results_are_kept_after_every_case_and_a_rerun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = tiny("op/prefix-softmax/*/48")
    seen = []

    def stop(text: str) -> None:
        seen.append(text)
        if text.startswith("3 of 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(cases, probe=PROBE, out=tmp_path, show=stop)
    before = load(tmp_path / NAME)
    assert [result.case for result in before.results] == cases[:2]
    started: list[str] = []
    after = measure(cases, probe=PROBE, out=tmp_path, resume=True, done=lambda result: started.append(result.case.name))
    assert started == [cases[2].name]
    assert after.results[:2] == before.results and load(tmp_path / NAME) == after
    machine = facts()
    monkeypatch.setattr(run, "facts", lambda: {**machine, "code": "another"})
    measure(cases, probe=PROBE, out=tmp_path, resume=True, done=lambda result: started.append(result.case.name))
    assert started[1:] == [case.name for case in cases]
    monkeypatch.setattr(run, "facts", lambda: {**machine, "processor": "another"})
    with pytest.raises(ValueError, match=r"resume: .* different conditions: processor was"):
        measure(cases, probe=PROBE, out=tmp_path, resume=True)


@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_where_that_is_asked_for(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: not asked.append(True))
    found = measure(tiny("op/prefix-softmax/forward/48"), setting=Setting(keep_memory=kept), probe=PROBE)
    assert bool(asked) is kept and found.settings["freed memory"] == ("kept" if kept else "given back")


def test_a_length_that_would_take_too_long_is_left_out() -> None:
    cases = [dataclasses.replace(case, cap=1e-9) for case in tiny("lengths/train/48", sides=("fastformer",))]
    longer = dataclasses.replace(cases[0], name="lengths/train/96", length=96)
    first, second = measure([*cases, longer], probe=PROBE).results
    assert "one call takes" in first.sides[0].note and "would take more than" in second.sides[0].note
    assert not first.sides[0].seconds and not second.sides[0].seconds


def test_threads_are_set_and_set_back() -> None:
    before = torch.get_num_threads()
    inside = []
    found = measure(tiny("op/prefix-softmax/forward/48"), threads=2, probe=PROBE, show=lambda text: inside.append(torch.get_num_threads()))
    assert inside == [2, 2] and torch.get_num_threads() == before and found.machine["threads"] == 2


def test_the_machine_says_what_it_is() -> None:
    machine = facts()
    assert machine["packages"]["torch"] == torch.__version__ and machine["threads"] == 1 and machine["processor"]
    assert not any(sys.prefix in str(value) for value in machine.values())
    rates = measure_rates(side=64, numbers=1 << 16, tries=2)
    assert 1e6 < rates.matmul <= rates.flops < 1e15 and 1e6 < rates.copy < 1e13


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux tells")
def test_the_peak_is_that_of_the_call() -> None:
    held = []

    def call() -> None:
        held.append(torch.ones(1 << 23))
        torch.ones(1 << 24)

    found = peak_above(call)
    assert found is not None and found["above"] == pytest.approx(96 << 20, rel=0.1)
    again = peak_above(lambda: None)
    assert again is not None and again["above"] < 4 << 20 <= found["peak"] <= (resident("VmHWM") or 0) + (96 << 20)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux tells")
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    case = tiny("op/favor/train/48", length=20_000)[0]
    request = {"case": case.to_dict(), "side": "favor", "threads": 1, "dtype": "float32"}
    found = in_fresh_process(request, timeout=120)
    inputs = 3 * 20_000 * 64 * 4
    assert found["above"] > inputs  # the gradients
    with pytest.raises(RuntimeError, match="KeyError"):
        in_fresh_process({**request, "case": {}}, timeout=120)


def test_a_very_long_step_has_its_time_and_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name="million", kind="million", mode="train", sides=("performer", "self@64"), length=192, sizes=SIZES)
    (result,) = measure([case], probe=PROBE).results
    assert not result.refused and [len(side.seconds) for side in result.sides] == [1, 2]
    assert (result.sides[0].peak_bytes or 0) > 1 << 20 and len(result.ratios("self@64")) == 1
    assert result.sides[0].floor_flops == pytest.approx(3 * (result.sides[1].floor_flops or 0))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process does not learn that its parent is gone")
@pytest.mark.parametrize("alive", [True, False])
def test_a_process_of_its_own_does_not_outlive_who_asked(alive: bool) -> None:
    parent = os.getpid() if alive else os.getpid() + 1
    lines = f"import time; from subquadratic.benchmark.memory import end_with; end_with({parent}); time.sleep(3); print('still here')"
    found = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == ((0, "still here\n") if alive else (1, ""))


def test_the_import_is_timed_in_fresh_processes() -> None:
    (result,) = measure([dataclasses.replace(import_case(), rounds=1)], probe=PROBE).results
    bare, models = (side.seconds for side in result.sides)
    assert len(bare) == len(models) == 1 and 0 < bare[0] < models[0]


COMPILED = """
import importlib.util, pathlib, subquadratic.models.performer as used
print(0, int(pathlib.Path(importlib.util.cache_from_source(used.__file__)).exists()))
"""


def test_an_import_reads_compiled_files_where_python_writes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling the sources takes longer than all the rest, and is no part of importing what is installed."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(imports, "CODE", imports.CODE + COMPILED)
    case = dataclasses.replace(import_case(), rounds=1, sides=("subquadratic", "models", "before", "compiled"))
    found = imports.measure_import(case, rounds=1)
    assert found["compiled"] == [1.0]


def test_choosing_cases_needs_no_torch() -> None:
    code = "import subquadratic.benchmark.suites as c, sys; c.registry(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.dumps([case.to_dict() for case in registry().values()])
