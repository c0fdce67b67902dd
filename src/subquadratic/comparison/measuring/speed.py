"""Speed and memory against length: what a training step, reading a sequence, and a further token cost each model, at lengths that double
until nothing fits the memory or the time.

At each length every model is first looked at alone, in a fresh process: the peak of its training step, and how long things take. Then all
are timed in one process, interleaved. Time goes to what costs least, over this length and the longer ones: a model that needs as long as
another at four times the length waits for it. All but exact attention, which the others are compared with.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...benchmark.timing import SHORT, median, reason
from ...costs.memory import available_memory
from ..results import Speed
from .crossover import EXACT
from .subject import NEW_TOKENS, Spec, expected_bytes, extrapolated
from .worker import Worker

SHORTEST = 512
LEAST, MOST = 3, 5  # rounds
LOOKS = 2  # what the first look and the warm-up take, in rounds
SHARE = 0.15  # of the time left, for more rounds at one length than the fewest; longer ones take the rest
SETTLE = 0.5  # seconds that a process spends on building a model and touching libraries, about
ARCHITECTURES = "subquadratic.hf.architecture"  # what takes seconds to load, where one of the models is of transformers
DOUBLINGS = 12  # that are looked ahead
RECOMPUTES = "no state to carry: each further token reads the whole context again, which is what token_seconds says"

Save = Callable[[list[Speed]], None]


@dataclass(kw_only=True)
class Plan:
    """What holds for all lengths."""

    specs: Mapping[str, Spec]
    vocab_size: int
    device: str
    threads: int | None
    lengths: Sequence[int] | None
    exact: str
    deadline: float = 0.0
    """Of the monotonic clock."""
    speeds: list[Speed] = field(default_factory=list)

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def growth(self, length: int) -> list[float]:
        """This length and those that are still to come, as multiples of this one."""
        if self.lengths is None:
            return [2.0**power for power in range(DOUBLINGS)]
        return [later / length for later in self.lengths if later >= length]

    def share(self, length: int) -> float:
        """Seconds that more rounds than the fewest may take at a length."""
        return (SHARE if len(self.growth(length)) > 1 else 1.0) * self.left()

    def request(self, task: str, length: int, **more: Any) -> dict[str, Any]:
        common = {"task": task, "length": length, "vocab_size": self.vocab_size, "device": self.device, "threads": self.threads}
        return {**common, **more}

    def history(self, name: str) -> list[Speed]:
        """What is known of an entry, by length."""
        return sorted((speed for speed in self.speeds if speed.entry == name), key=lambda speed: speed.length)


def measure_speed(
    specs: Mapping[str, Spec],
    *,
    vocab_size: int,
    budget: float,
    lengths: Iterable[int] | None = None,
    known: Sequence[Speed] = (),
    save: Save = lambda speeds: None,
    show: Callable[[str], None] = lambda line: None,
    threads: int | None = None,
    device: str = "cpu",
    exact: str = EXACT,
) -> list[Speed]:
    """Measure each entry at each length, one sequence at a time, in float32.

    An entry is left out from the length on at which it does not fit the memory, takes too much of the time left (`affordable`), or fails;
    its `Speed` there has a note, and no training time.

    Args:
        specs: the entries by name, as `subject.build_subject` takes them.
        vocab_size: tokens of the vocabulary.
        budget: seconds, for all of it but loading PyTorch anew; a process that does not end in time is ended.
        lengths: of a sequence, in tokens. None: 512, 1024, 2048 ... for as long as an entry is left.
        known: what an earlier call gave to `save`: not measured again.
        save: gets the results of a length, of all entries together, as soon as they are there.
        show: gets a line before each measurement.
        threads: that compute; None: PyTorch's choice.
        device: "cpu" or "cuda".
        exact: the entry that the others are compared with, if there is one of that name.

    Returns:
        `known` and what was measured, in this order.
    """
    lengths = None if lengths is None else sorted(lengths)
    plan = Plan(
        specs=specs,
        vocab_size=vocab_size,
        device=device,
        threads=threads,
        lengths=lengths,
        exact=exact,
        speeds=list(known),
    )
    with Worker() as worker:
        worker.start(*({ARCHITECTURES} if any(spec.get("source") == "transformers" for spec in specs.values()) else ()))
        plan.deadline = time.monotonic() + budget
        for length in doubling(SHORTEST) if lengths is None else lengths:
            waiting = [name for name in specs if _in_the_race(plan.history(name), length)]
            if waiting:
                found = _measure_length(plan, worker, waiting, length, show)
                plan.speeds += found
                save(found)
            elif not any(_in_the_race(plan.history(name), None) for name in specs):
                break
    return plan.speeds


def doubling(first: int) -> Iterable[int]:
    """first, twice that, and so on."""
    return (first << power for power in itertools.count())


def _in_the_race(history: list[Speed], length: int | None) -> bool:
    """Whether an entry has a training time at every length so far, and is still to be measured at this one."""
    return all(speed.train_seconds and speed.length != length for speed in history if length is None or speed.length <= length)


def affordable(costs: Mapping[str, float], left: float, *, growth: Sequence[float] = (1.0,)) -> set[str]:
    """Which entries to measure at a length, in `left` seconds that have to do for longer ones too: the cheapest first, of all lengths
    together.

    Args:
        costs: seconds at this length, by entry.
        growth: this length and the longer ones as multiples of this one; costs grow as much at least.
    """
    found = set()
    for cost, times, name in sorted((cost * times, times, name) for name, cost in costs.items() for times in growth):
        left -= cost
        if left < 0:
            break
        if times == 1:
            found.add(name)
    return found


def _measure_length(plan: Plan, worker: Worker, names: list[str], length: int, show: Callable[[str], None]) -> list[Speed]:
    found = {name: Speed(entry=name, length=length) for name in names}
    expected = {name: _expected(plan, name, length) for name in names}
    _leave_out(plan, found, expected, length)
    rounds: dict[str, float] = {}  # seconds of a round, by entries that are to be timed
    rereads: set[str] = set()  # causal entries without a state
    for name in expected:
        if note := _no_room(plan, name, length):
            found[name].note = note
            continue
        show(f"{name} at {length:,} tokens: memory")
        look = _probe(plan, worker, found[name], timeout=plan.left() / len(expected))
        if look is not None:
            rounds[name] = look.seconds
            rereads |= {name} if look.rereads else set()
    needed = {name: (LOOKS - 1 + LEAST) * seconds for name, seconds in rounds.items()}
    _leave_out(plan, found, needed, length)
    if needed:
        show(f"{', '.join(needed)} at {length:,} tokens: time")
        _time(plan, worker, found, {name: rounds[name] for name in needed}, length)
    for name in rereads:
        _take_prefill_for_tokens(found[name])
    return list(found.values())


def _expected(plan: Plan, name: str, length: int) -> float:
    """Seconds to measure an entry, from what shorter lengths took."""
    history = [speed for speed in plan.history(name) if speed.length < length and speed.prefill_seconds]
    return SETTLE + (extrapolated({speed.length: _all_seconds(speed) for speed in history}, length) if history else 0.0)


def _all_seconds(speed: Speed) -> float:
    """What the fewest rounds took, with looks and warm-up."""
    token = median(speed.token_seconds) * NEW_TOKENS if speed.state_bytes is not None and speed.token_seconds else 0.0
    readings = (median(speed.train_seconds), median(speed.prefill_seconds), token)
    return (LOOKS + LEAST) * sum(max(seconds, SHORT) for seconds in readings)


def _leave_out(plan: Plan, found: dict[str, Speed], costs: dict[str, float], length: int) -> None:
    """Say of entries that they would take too long, and take them out of `costs`. The exact one comes before others of this length, up to
    half of the time: without it they cannot be compared."""
    left = plan.left()
    others = dict(costs)
    if (own := others.pop(plan.exact, left)) > left / 2:
        others, own = costs, 0.0
    kept = affordable(others, left - own, growth=plan.growth(length)) | (costs.keys() - others.keys())
    for name in costs.keys() - kept:
        about = f"it would take about {_rounded(costs[name])} s, and the {_rounded(left)} s left are for others and longer ones too"
        found[name].note = f"took too long: {about if left > SETTLE else 'no time was left'}"
        del costs[name]


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"


def _no_room(plan: Plan, name: str, length: int) -> str:
    """Why an entry does not fit the memory, as far as shorter lengths and arithmetic tell; "" where it does."""
    room = available_memory(plan.device)
    measured = {speed.length: speed.train_bytes for speed in plan.history(name) if speed.train_bytes is not None and speed.length < length}
    if measured and 4 * max(measured.values()) * (length / max(measured)) ** 2 < room:
        return ""  # without asking how much: what grew with the square of the length would fit
    try:
        needed = expected_bytes(plan.specs[name], length=length, vocab_size=plan.vocab_size, measured=measured)
    except ValueError as error:
        return f"failed: {reason(error)}"
    if needed is not None and needed > room:
        return f"does not fit: a training step takes about {needed / 1e9:.2g} GB, and {room / 1e9:.2g} GB are free"
    return ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the first look at an entry told: seconds of a round, and whether each token reads the whole context again."""

    seconds: float
    rereads: bool


def _probe(plan: Plan, worker: Worker, speed: Speed, *, timeout: float) -> Look | None:
    """Look at one entry alone, and fill in its peak and state. None: it is not to be timed, as its note says."""
    timeout = max(timeout, SETTLE)
    told, trouble = worker.ask(plan.request("probe", speed.length, spec=plan.specs[speed.entry]), timeout=timeout)
    seen: dict[str, Any] = {name: value for message in told for name, value in message.items()}
    speed.train_bytes, speed.state_bytes = seen.get("bytes"), seen.get("state_bytes")
    if trouble:
        late = trouble.startswith("took")
        speed.note = f"took too long: more than the {_rounded(timeout)} s that were left for it" if late else trouble
        return None
    kinds = [seen[kind] for kind in ("train", "prefill", "token") if kind in seen]
    return Look(seconds=sum(max(seconds, SHORT) for seconds in kinds), rereads=seen["rereads"])


def _time(plan: Plan, worker: Worker, found: dict[str, Speed], costs: dict[str, float], length: int) -> None:
    """Time what is left in turns, with as many rounds as a part of the time allows."""
    while costs:
        rounds = int(min(max(plan.share(length) / sum(costs.values()) - 1, LEAST), MOST))  # one more is the warm-up
        specs = {name: plan.specs[name] for name in costs}
        limits = {"rounds": rounds, "least": LEAST, "budget": plan.share(length)}
        told, trouble = worker.ask(plan.request("time_together", length, specs=specs, **limits), timeout=max(plan.left(), SETTLE))
        if not trouble:
            break
        # The one that was at work, and then the others again, as far as there is time.
        at = [message["at"] for message in told if "at" in message]
        culprit = at[-1] if at else max(costs, key=lambda name: found[name].train_bytes or 0)
        late = trouble.startswith("took")
        for name in list(costs) if late else [culprit]:
            found[name].note = "took too long: no time was left" if late else trouble
            del costs[name]
    else:
        return
    for message in told:
        if "kind" in message:
            _put(found, message)


def _put(found: dict[str, Speed], message: dict[str, Any]) -> None:
    """The readings of one kind."""
    for name, seconds in message["seconds"].items():
        setattr(found[name], f"{message['kind']}_seconds", seconds)
    for name, why in message["dropped"].items():
        found[name].note = why


def _take_prefill_for_tokens(speed: Speed) -> None:
    """Without a state the same call comes before each further token as before the first."""
    if not speed.note and speed.prefill_seconds:
        speed.token_seconds, speed.note = list(speed.prefill_seconds), RECOMPUTES
