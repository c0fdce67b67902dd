"""Lengths that double until nothing is left, of models that are slow, large or broken; and of real ones."""

from __future__ import annotations

from typing import Any, Self

import pytest

import subquadratic as sq
from subquadratic.comparison.measuring import speed
from subquadratic.comparison.measuring.speed import RECOMPUTES, affordable, measure_speed
from subquadratic.comparison.measuring.subject import NEW_TOKENS
from subquadratic.comparison.results import Speed

SPEC = {"source": "ours", "config": sq.FastformerConfig(dim=8, depth=1, heads=1).to_dict()}

LOADING = 1000.0  # seconds


class Machine:
    """In the place of processes: entries that take as long as they say, on a clock of its own."""

    def __init__(self, **seconds: Any) -> None:
        self.seconds, self.now = seconds, 0.0
        self.trouble: dict[tuple[str, int], str] = {}  # of a look at an entry
        self.kills: set[tuple[str, int]] = set()  # entries that end the process in which all are timed
        self.asked: list[tuple[str, int, tuple[str, ...]]] = []
        self.rounds: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def monotonic(self) -> float:
        return self.now

    def readings(self, name: str, kind: str, request: dict[str, Any]) -> list[float]:
        return [self.seconds[name](request["length"]) / (NEW_TOKENS if kind == "token" else 1)] * request["rounds"]

    def start(self, *modules: str) -> None:
        """Loading takes seconds, which no measurement has to do without."""
        self.now += LOADING

    def ask(self, request: dict[str, Any], *, timeout: float) -> tuple[list[dict[str, Any]], str]:
        length, task = request["length"], request["task"]
        names = tuple(spec["name"] for spec in ([request["spec"]] if task == "probe" else request["specs"].values()))
        self.asked.append((task, length, names))
        if task == "probe":
            (name,) = names
            if (name, length) in self.trouble:
                return [{"rereads": False}], self.trouble[name, length]
            took = self.seconds[name](length)
            if took * 3 > timeout:
                self.now += timeout
                return [{"rereads": False}], f"took more than {timeout:.0f} s"
            self.now += took * 3
            decodes = {} if name == "plain" else {"token": took, "state_bytes": 8}
            return [{"rereads": name == "plain"}, {"train": took, "bytes": 1000 * length}, {"prefill": took}, decodes], ""
        for name in names:
            if (name, length) in self.kills:
                return [{"at": name}], "the system ended its process (out of memory?)"
        self.rounds.append(request["rounds"])
        kinds = {kind: [name for name in names if kind != "token" or name != "plain"] for kind in ("train", "prefill", "token")}
        took = sum(self.seconds[name](length) for found in kinds.values() for name in found) * (1 + request["rounds"])
        if took > timeout:
            self.now += timeout
            return [], "took more than"
        self.now += took
        return [
            {"kind": kind, "dropped": {}, "seconds": {name: self.readings(name, kind, request) for name in found}}
            for kind, found in kinds.items()
        ], ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(fast=lambda n: n / 1e4, slow=lambda n: (n / 2000) ** 2, plain=lambda n: n / 1e4)
    monkeypatch.setattr(speed, "Worker", lambda: found)
    monkeypatch.setattr(speed.time, "monotonic", found.monotonic)
    monkeypatch.setattr(speed, "available_memory", lambda device: 1 << 40)
    return found


def specs(*names: str) -> dict[str, Any]:
    return {name: {**SPEC, "name": name} for name in names}


def measure(names: tuple[str, ...], budget: float, **options: Any) -> dict[str, dict[int, Speed]]:
    found: dict[str, dict[int, Speed]] = {name: {} for name in names}
    for each in measure_speed(specs(*names), vocab_size=11, budget=budget, **options):
        assert each.length not in found[each.entry]
        found[each.entry][each.length] = each
    return found


@pytest.mark.parametrize("budget", [20.0, 100.0, 1000.0])
def test_each_goes_as_far_as_its_share_allows(machine: Machine, budget: float) -> None:
    found = measure(("fast", "slow"), budget)
    assert budget / 3 < machine.now - LOADING <= 1.1 * budget
    for speeds in found.values():
        *before, last = sorted(speeds.values(), key=lambda each: each.length)
        assert [each.length for each in (*before, last)] == [512 << power for power in range(len(before) + 1)]
        assert all(len(each.train_seconds) >= 3 and each.note == "" for each in before)
        assert last.note.startswith("took too long") and last.train_seconds == []
    assert max(found["fast"]) > max(found["slow"])
    assert machine.rounds[0] == 5 and min(machine.rounds) >= 3


def test_the_cheapest_of_all_lengths_come_first() -> None:
    growth = [1.0, 2.0, 4.0]
    assert affordable({"a": 1.0, "b": 3.9}, 6.0, growth=growth) == {"a"}, "1 + 2 leave less than 3.9"
    assert affordable({"a": 1.0, "b": 3.9}, 7.0, growth=growth) == {"a", "b"}
    assert affordable({"a": 1.0, "b": 4.1}, 8.0, growth=growth) == {"a"}, "a at four times the length comes before"
    assert affordable({"a": 1.0, "b": 4.1}, 8.0) == {"a", "b"}, "there is no longer one"
    assert affordable({"a": 2.0}, 1.9, growth=growth) == set() == affordable({}, 1.0)


def test_the_exact_one_is_measured_before_cheaper_ones_at_greater_lengths(machine: Machine) -> None:
    machine.seconds |= {"slow": lambda n: n / 1500, "fast": lambda n: n / 5000, "plain": lambda n: n / 5000}
    further = []
    for budget in (20.0, 40.0, 60.0, 80.0, 120.0, 160.0, 200.0):
        reached = {}
        for exact in ("slow", "nobody"):
            machine.now = 0.0
            found = measure(("fast", "plain", "slow"), budget, exact=exact)["slow"]
            reached[exact] = sum(bool(each.train_seconds) for each in found.values())
            assert machine.now - LOADING <= 1.1 * budget
        assert reached["slow"] >= reached["nobody"]
        further.append(reached["slow"] > reached["nobody"])
    assert any(further)


def test_all_entries_are_timed_in_one_process_and_saved_after_each_length(machine: Machine) -> None:
    saved: list[list[Speed]] = []
    measure(("fast", "slow"), 100.0, lengths=[512, 1024], save=saved.append)
    assert [[(each.entry, each.length) for each in part] for part in saved] == [[("fast", n), ("slow", n)] for n in (512, 1024)]
    assert [names for task, _, names in machine.asked if task == "time_together"] == [("fast", "slow")] * 2
    first = saved[0][0]
    assert first.train_seconds == first.prefill_seconds == [0.0512] * 5
    assert (first.train_bytes, first.state_bytes) == (512_000, 8)


def test_what_is_known_is_not_measured_again(machine: Machine) -> None:
    saved: list[list[Speed]] = []
    whole = measure(("fast", "slow"), 100.0, lengths=[512, 1024, 2048], save=saved.append)
    machine.asked.clear()
    again = measure(("fast", "slow"), 100.0, lengths=[512, 1024, 2048], known=[*saved[0], *saved[1]])
    assert {length for _, length, _ in machine.asked} == {2048}
    assert {name: list(speeds) for name, speeds in again.items()} == {name: list(speeds) for name, speeds in whole.items()}
    machine.asked.clear()
    known = [Speed(entry="slow", length=512, note="does not fit"), *saved[0][:1]]
    assert list(measure(("fast", "slow"), 100.0, lengths=[512, 1024], known=known)["slow"]) == [512]
    assert {names for _, _, names in machine.asked} == {("fast",)}


def test_one_that_fails_or_is_killed_has_a_note_and_the_others_go_on(machine: Machine) -> None:
    machine.trouble["slow", 1024] = "failed: RuntimeError: no"
    machine.kills.add(("plain", 2048))
    found = measure(("fast", "slow", "plain"), 1000.0, lengths=[512, 1024, 2048, 4096])
    assert list(found["slow"]) == [512, 1024] and found["slow"][1024].note == "failed: RuntimeError: no"
    assert list(found["plain"]) == [512, 1024, 2048]
    assert found["plain"][2048].note == "the system ended its process (out of memory?)" and found["plain"][2048].train_bytes == 2_048_000
    assert all(each.train_seconds for each in found["fast"].values()) and len(found["fast"]) == 4


def test_a_model_without_a_state_reads_everything_again_for_each_token(machine: Machine) -> None:
    each = measure(("plain",), 100.0, lengths=[512])["plain"][512]
    assert each.token_seconds == each.prefill_seconds != [] and each.note == RECOMPUTES and each.state_bytes is None


def test_what_would_not_fit_is_not_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "available_memory", lambda device: 3_000_000)
    needs = {512: 1_000_000, 1024: 4_000_000}
    monkeypatch.setattr(speed, "expected_bytes", lambda spec, *, length, **_: needs[length])
    found = measure(("fast",), 100.0)["fast"]
    assert list(found) == [512, 1024] and found[512].train_seconds
    assert found[1024].note == "does not fit: a training step takes about 0.004 GB, and 0.003 GB are free"
    assert {length for _, length, _ in machine.asked} == {512}


def test_real_models_in_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MOST", 2)
    monkeypatch.setattr(speed, "LEAST", 2)
    sizes: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
    configs = {
        "transformer": sq.TransformerConfig(**sizes),
        "linformer": sq.LinformerConfig(**sizes, max_length=4, slots=4),
        "perceiver_ar": sq.PerceiverARConfig(**sizes, latents=8),
        "both ways": sq.FastformerConfig(**sizes, causal=False),
    }
    given: dict[str, Any] = {name: {"source": "ours", "config": config.to_dict()} for name, config in configs.items()}
    given["broken"] = {"source": "ours", "config": {"model_type": "perfomer"}}
    found = {(each.entry, each.length): each for each in measure_speed(given, vocab_size=50, budget=40, lengths=[64, 128], threads=1)}
    assert sorted(found) == sorted([*((name, length) for name in configs for length in (64, 128)), ("broken", 64)])
    assert found["broken", 64].note.startswith("failed: ValueError: model_type must be")
    for (name, _), each in found.items():
        if name != "broken":
            assert each.note == "" and len(each.train_seconds) == len(each.prefill_seconds) == 2 and min(each.train_seconds) > 0
            assert each.train_bytes is None or each.train_bytes > 0
            assert bool(each.token_seconds) == bool(each.state_bytes) == (name != "both ways")
    small, large = (found["transformer", length].state_bytes for length in (64, 128))
    assert small is not None and large is not None and large - small == pytest.approx(64 * 2 * 16 * 4, rel=0.02), (
        "keys and values of 64 tokens"
    )
