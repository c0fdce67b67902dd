"""Before anything is trained: the data are read, entries sized and tried, and the time divided."""

from __future__ import annotations

import dataclasses
import time

from .comparing import Comparing
from .conditions import LOADING, Examination, Probe, divide
from .options import target_parameters
from .remaining import TRYING
from .results import Entry
from .sizing import TOLERANCE
from .workers import WorkError

PARAMETERS = 1_000_000


def prepare(made: Comparing) -> None:
    """Data read, entries sized and tried, conditions set."""
    found = made.ask("reading the data", "facts")
    known, data = made.comparison.data, found["data"]
    if known and known["digest"] != data["digest"]:
        raise ValueError(
            f"resume: the data have changed since the comparison began (digest {known['digest'][:12]}, now {data['digest'][:12]}): "
            "begin another with --out"
        )
    made.comparison.data, made.comparison.unit, made.comparison.machine = data, found["unit"], found["machine"]
    known_references = known.get("references")
    made.comparison.settings |= {name: found[name] for name in ("batch_size", "length", "examination", "loading_seconds")}
    made.display.report("data", f"data        {data['text']}", **{key: value for key, value in data.items() if key != "text"})
    _probe(made)
    if "conditions" not in made.comparison.settings:
        _set_conditions(made)
    items = made.comparison.settings["conditions"]["items"]
    data["references"] = known_references or made.ask("reading what is scored", "references", items=items)
    made.keep()


def _probe(made: Comparing) -> None:
    """Others' models first: what they have is what ours are made to have."""
    settings = made.comparison.settings
    for entry in sorted(made.comparison.entries, key=lambda entry: entry.source == "ours"):
        if entry.parameters or entry.skipped:
            continue
        model = made.foreign.get(entry.name)
        parameters = settings.get("parameters") or target_parameters(made.options.parameters)
        if model is None and parameters is None:
            parameters = PARAMETERS
        try:
            spec = None if model is None else model.spec()
            found = made.ask(f"trying {entry.name}", "probe", takes=TRYING, name=entry.name, spec=spec, parameters=parameters)
        except WorkError as error:
            entry.skipped = str(error)
            made.display.report("left_out", f"left out    {entry.name}: {error}", entry=entry.name, why=str(error))
            continue
        entry.options, entry.parameters, entry.flops_per_token = found["options"], found["parameters"], found["flops_per_token"]
        entry.step_seconds, entry.memory_bytes = found["step_seconds"], found["memory_bytes"]
        settings.setdefault("item_seconds", {})[entry.name] = found["item_seconds"]
        settings.setdefault("default_rates", {})[entry.name] = found["learning_rate"]
        settings["tokens_per_step"] = found["tokens_per_step"]
        settings["parameters"] = parameters or entry.parameters
        off = entry.parameters / settings["parameters"] - 1
        entry.size_off = off if abs(off) > TOLERANCE else None
        made.display.report("model", f"model       {_described(entry)}", **dataclasses.asdict(entry))
        if entry.size_off is not None:
            text = f"note        {entry.name} is not of equal size: {_size_off(entry, settings['parameters'])}"
            made.display.report("note", text, entry=entry.name, size_off=off)
    if not any(entry.parameters for entry in made.comparison.entries):
        raise ValueError("models: none of them can be compared on these data; the lines above say why")


def _set_conditions(made: Comparing) -> None:
    settings, data = made.comparison.settings, made.comparison.data
    probes = [
        Probe(entry.name, entry.step_seconds or 1.0, settings["item_seconds"][entry.name], entry.flops_per_token)
        for entry in made.taking_part()
    ]
    examination = settings["examination"]
    conditions = divide(
        made.options, probes, left=made.options.seconds() - (time.monotonic() - made.began), tokens_per_step=settings["tokens_per_step"],
        available_items=data["validation_items"], loading=settings["loading_seconds"] or LOADING,
        examination=None if examination is None else Examination(**examination),
    )  # fmt: skip
    settings["conditions"] = conditions.to_dict()
    made.display.report("conditions", f"each run    {_each_run(made)}", **conditions.to_dict())


def _each_run(made: Comparing) -> str:
    conditions = made.comparison.settings["conditions"]
    if conditions["run_seconds"] is not None:
        return f"{conditions['run_seconds']:,.0f} s of training"
    steps = conditions["run_steps"]
    if made.options.equal == "tokens":
        return f"{next(iter(steps.values())) * made.comparison.settings['tokens_per_step']:,} tokens"
    name, count = next(iter(steps.items()))
    return f"{count * made.comparison.settings['tokens_per_step'] * made.comparison.entry(name).flops_per_token:.2e} FLOP"


def _size_off(entry: Entry, parameters: int) -> str:
    more = "more" if entry.parameters > parameters else "fewer"
    own = "a function in a Python file has its own size" if entry.source == "file" else "no width comes nearer"
    return f"{abs(entry.parameters / parameters - 1):.1%} {more} parameters than the {parameters:,} of the others ({own})"


def _described(entry: Entry) -> str:
    shape = f", dim {entry.options['dim']}, depth {entry.options['depth']}" if entry.source == "ours" else ""
    return f"{entry.name}{shape}: {entry.parameters:,} parameters, {1e3 * (entry.step_seconds or 0):.0f} ms a step"
