"""Speed and memory against length: what a training step, reading a sequence, and a further token cost each model, at lengths that double
until nothing fits the memory or the time.

At each length every model is first looked at alone, in a fresh process: the peak of its training step, and how long things take. What that
allows for is then timed in one process, interleaved over the models. The next length begins where the one before has told what to expect.
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
from .subject import Spec, expected_bytes, extrapolated
from .worker import Worker

SHORTEST = 512
LEAST, MOST = 2, 7  # rounds
LATER = 1 / 3  # of the time left, for the rounds of one length; longer ones take the rest
SETTLE = 0.5  # seconds that a process spends on building a model and touching libraries, about
RECOMPUTES = "no state to carry: each further token reads the whole context again, which is what token_seconds says"

Save = Callable[[list[Speed]], None]


@dataclass(kw_only=True)
class Plan:
    """What holds for all lengths."""

    specs: Mapping[str, Spec]
    vocab_size: int
    device: str
    threads: int | None
    deadline: float
    speeds: list[Speed] = field(default_factory=list)

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

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
) -> list[Speed]:
    """Measure each entry at each length, one sequence at a time, in float32.

    An entry is left out from the length on at which it does not fit the memory, takes longer than its equal share of the time left, or
    fails; its `Speed` there has a note, and no training time.

    Args:
        specs: the entries by name, as `subject.build_subject` takes them.
        vocab_size: tokens of the vocabulary.
        budget: seconds, for all of it; a process that does not end in time is ended.
        lengths: ascending. None: 512, 1024, 2048 ... for as long as an entry is left.
        known: what an earlier call gave to `save`: not measured again.
        save: gets the results of a length, of all entries together, as soon as they are there.
        show: gets a line before each measurement.
        threads: that compute; None: PyTorch's choice.
        device: "cpu" or "cuda".

    Returns:
        `known` and what was measured, in this order.
    """
    plan = Plan(specs=specs, vocab_size=vocab_size, device=device, threads=threads, deadline=time.monotonic() + budget, speeds=list(known))
    with Worker() as worker:
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


def _measure_length(plan: Plan, worker: Worker, names: list[str], length: int, show: Callable[[str], None]) -> list[Speed]:
    share = plan.left() / len(names)
    found = {name: Speed(entry=name, length=length) for name in names}
    costs: dict[str, float] = {}  # seconds of a round, by entries that are to be timed
    rereads: set[str] = set()  # causal entries without a state
    for name, speed in found.items():
        speed.note = _no_use(plan, name, length, share)
        if not speed.note:
            show(f"{name} at {length:,} tokens: memory")
            look = _probe(plan, worker, speed, share)
            if look is not None:
                costs[name] = look.cost
                rereads |= {name} if look.rereads else set()
    if costs:
        show(f"{', '.join(costs)} at {length:,} tokens: time")
        _time(plan, worker, found, costs, length)
    for name in rereads:
        _take_prefill_for_tokens(found[name])
    return list(found.values())


def _no_use(plan: Plan, name: str, length: int, share: float) -> str:
    """Why an entry need not be tried at a length, as far as shorter ones and arithmetic tell; "" for no reason."""
    history = [speed for speed in plan.history(name) if speed.length < length]
    rounds = {speed.length: median(speed.train_seconds) + median(speed.prefill_seconds) for speed in history if speed.prefill_seconds}
    seconds = SETTLE + (1 + LEAST) * extrapolated(rounds, length) if rounds else SETTLE
    if seconds > share:
        return _too_long(seconds, share)
    spec, room = plan.specs[name], available_memory(plan.device)
    measured = {speed.length: speed.train_bytes for speed in history if speed.train_bytes is not None}
    if measured and 4 * max(measured.values()) * (length / max(measured)) ** 2 < room:
        return ""  # without asking how much: what grew with the square of the length would fit
    try:
        needed = expected_bytes(spec, length=length, vocab_size=plan.vocab_size, measured=measured)
    except ValueError as error:
        return f"failed: {reason(error)}"
    if needed is not None and needed > room:
        return f"does not fit: a training step takes about {needed / 1e9:.2g} GB, and {room / 1e9:.2g} GB are free"
    return ""


def _too_long(seconds: float, share: float) -> str:
    if share <= SETTLE:
        return "took too long: no time was left"
    return f"took too long: about {seconds:.0f} s, and {share:.0f} s were left for it"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the first look at an entry told: seconds of a round, and whether each token reads the whole context again."""

    cost: float
    rereads: bool


def _probe(plan: Plan, worker: Worker, speed: Speed, share: float) -> Look | None:
    """Look at one entry alone, and fill in its peak and state. None: it is not to be timed, as its note says."""
    began = time.monotonic()
    timeout = max(min(share, plan.left()), SETTLE)
    request = plan.request("probe", speed.length, spec=plan.specs[speed.entry])
    told, trouble = worker.ask(request, timeout=timeout)
    seen: dict[str, Any] = {name: value for message in told for name, value in message.items()}
    speed.train_bytes, speed.state_bytes = seen.get("bytes"), seen.get("state_bytes")
    if trouble:
        speed.note = trouble if not trouble.startswith("took") else f"took too long: more than the {timeout:.0f} s that were left for it"
        return None
    spent = time.monotonic() - began
    cost = sum(max(seen.get(kind, 0.0), SHORT) for kind in ("train", "prefill", "token"))
    needed = (1 + LEAST) * cost + seen.get("context", 0.0)
    if spent + needed > share:
        speed.note = _too_long(spent + needed, share)
        return None
    return Look(cost=cost, rereads=seen["rereads"])


def _time(plan: Plan, worker: Worker, found: dict[str, Speed], costs: dict[str, float], length: int) -> None:
    """Time what is left in turns, with as many rounds as a part of the time allows."""
    while costs:
        # Once to warm up; and the first look has been a cold one, which takes longer.
        rounds = int(min(max(LATER * plan.left() / sum(costs.values()) - 1, LEAST), MOST))
        specs = {name: plan.specs[name] for name in costs}
        budget = LATER * plan.left()
        limits = {"rounds": rounds, "least": LEAST, "budget": budget}
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
