"""What is done in a worker process: read the data, try an entry, train it, look at what it learned."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..benchmark.machine import facts
from ..benchmark.memory import peak_above
from ..core.schedule import Schedule
from ..core.threads import use_threads
from ..costs.cost import TrainingCost
from ..costs.memory import available_memory
from ..evaluation.report import size
from ..evaluation.windows import TextWindows
from ..heads.quantization import parameter_count
from ..loading import load
from ..training.configuration import backbone_config, pair_configs
from ..training.entry import carry_out, read_data, state_problem
from ..training.estimate import run_device, step_cost, step_seconds
from ..training.optimizer import make_optimizer
from ..training.options import TrainOptions
from ..training.plan import Plan
from ..training.precision import forward_precision
from ..training.problems.problem import Problem, evenly, validate
from ..training.problems.setup import task_of
from ..training.run_folder import RunFolder
from .architecture_size import sized_architecture
from .contestants import Contestant, contestant, problem_of, scale
from .flops import counted_flops, spared_flops
from .foreign import ForeignModel
from .lengths import item_lengths
from .looking_ahead import check_causal
from .measuring.contexts import FINENESS, contexts, loss_by_context
from .measuring.positions import loss_by_position
from .options import CompareOptions
from .recording import recorded
from .references import references
from .sizing import sized
from .waiting import waited_seconds

SEARCH_SEED = 1 << 30  # of weights and data order while learning rates are tried: none that a run has
SHORTEST = 2  # tokens of the longest row
TIMED_ITEMS = 4  # of the validation data
Tell = Callable[..., None]


class Session:
    """The data, read once, and what is asked about them."""

    def __init__(self, options: CompareOptions, tell: Tell, *, loading: float = 0.0) -> None:
        self.options, self.tell, self.loading = options, tell, loading
        use_threads(options.threads)
        first = contestant(options, "performer", None)
        read, self.data = read_data(first.options, lambda done, total: tell(reading=done, of=total))
        self.length = read.context
        if read.kind != "language" and read.context is not None and read.context < SHORTEST:
            raise ValueError(f"data: the longest text has {read.context} token, and models are compared on texts of {SHORTEST} at least")
        if read.kind != "language" and read.context is not None:
            self.options = dataclasses.replace(options, length=read.context)

    def facts(self) -> dict[str, Any]:
        """Of the data: what `Comparison.data` keeps but for references, the unit, the batch, and what examining a model takes."""
        entry = self._contestant("performer", None, None)
        problem = problem_of(entry, self.data, sample_items=1)
        unit, factor = scale(entry.options, problem)
        about = problem.facts
        data = {
            "name": about["name"], "text": problem.text, "digest": about["digest"], "kind": problem.kind, "causal": entry.options.causal,
            "tokenizer": about.get("tokenizer", ""), "train_items": len(problem.train), "validation_items": len(problem.validation),
            "vocab_size": self._vocab_size(), "train_tokens": about.get("train_tokens", problem.size),
            "validation_tokens": about.get("validation_tokens"),
            "uniform": problem.uniform * factor if unit != "accuracy" else None,
        }  # fmt: skip
        examination = None
        if isinstance(windows := problem.validation, TextWindows):
            passes = max(windows.passes, 1)
            size = max(1, windows.length // FINENESS)
            examination = {"passes": passes, "targets": size, "windows": passes * len(contexts(windows.length))}
        return {
            "data": data, "unit": unit, "batch_size": entry.options.batch_size, "length": self.length, "machine": facts(),
            "examination": examination, "loading_seconds": self.loading,
        }  # fmt: skip

    def references(self, items: int) -> dict[str, float]:
        """Of the items that are scored."""
        entry = self._contestant("performer", None, None)
        problem = problem_of(entry, self.data, sample_items=1)
        return references(problem, items, getattr(self.data, "tokenizer", None), scale(entry.options, problem)[0])

    def probe(self, name: str, spec: dict[str, Any] | None, parameters: int | None) -> dict[str, Any]:
        """The entry at its size, and what a step and a validation take.

        Raises:
            ValueError: it cannot have that size, cannot learn these data, or does not fit into memory.
        """
        entry = self._sized(self._contestant(name, spec, None), parameters)
        problem = problem_of(entry, self.data, sample_items=1)
        cost = self._affordable_step(entry, problem)
        torch.manual_seed(SEARCH_SEED)
        model = problem.build().to(run_device())
        if problem.kind == "sequence_to_sequence" or (problem.kind == "language" and model.config.causal):
            length = min(problem.tokens - 1, self.length or problem.tokens)  # of pairs, that of the longer side
            check_causal(model, name=name, vocab_size=self._vocab_size(), length=length)
        batch = entry.options.batch_size or 1
        lengths = item_lengths(problem, batch)
        options = {key: getattr(entry.options, key) for key in ("dim", "depth", "heads", "fields")} if entry.spec is None else entry.spec
        return {
            "options": options, "parameters": parameter_count(model),
            "flops_per_token": self._flops(entry, problem, model, lengths.padded) / (lengths.mean * batch),
            "step_seconds": step_seconds(model, problem, entry.options), "memory_bytes": None if cost is None else cost.total_bytes,
            "item_seconds": _item_seconds(problem, model, batch), "tokens_per_step": round(lengths.mean * batch),
            "learning_rate": entry.options.learning_rate,
        }  # fmt: skip

    def rate(self, entry: dict[str, Any], rate: float, seconds: float | None, steps: int | None) -> dict[str, Any]:
        """One learning rate, tried from new weights on data in an order that no run has: the mean training loss of the last quarter."""
        own = self._entry(entry)
        options = dataclasses.replace(own.options, learning_rate=rate)
        problem = problem_of(own, self.data, sample_items=1)
        torch.manual_seed(SEARCH_SEED)
        model = problem.build().to(run_device())
        losses, began = [], time.monotonic()
        for loss in _brief(model, problem, options, seconds=seconds, steps=steps):
            losses.append(loss)
            if not math.isfinite(loss):
                break
        whole = bool(losses) and math.isfinite(losses[-1])
        last = losses[-max(1, len(losses) // 4) :]
        return {"score": statistics.fmean(last) if whole else None, "steps": len(losses), "seconds": time.monotonic() - began}

    def train(
        self,
        entry: dict[str, Any],
        seed: int,
        rate: float,
        folder: str,
        *,
        seconds: float | None,
        steps: int | None,
        items: int,
        sample: int,
    ) -> dict[str, Any]:
        """A run in its folder, begun, gone on with or finished before; what `recording.py` makes of it."""
        own = self._entry(entry)
        problem = problem_of(own, self.data, sample_items=sample)
        tokens = items * problem.tokens
        options = dataclasses.replace(
            own.options, seed=seed, learning_rate=rate, max_steps=steps, budget=None if seconds is None else "1m", out=folder,
            validation_tokens=tokens,
        )  # fmt: skip
        place = RunFolder(Path(folder))
        began = options if (place.path / "run.yaml").is_file() else None
        peak, waited = None, None
        if not place.finished():
            resumed = options if began is None else dataclasses.replace(options, resume=folder)
            plan = Plan(resumed, began, place, 1, True)
            clock, idle = time.monotonic(), waited_seconds()
            found = peak_above(lambda: self._run(plan, problem, seconds), device=run_device())
            peak = None if found is None else found["peak"]
            waited = None if idle is None else ((waited_seconds() or idle) - idle) / (time.monotonic() - clock)
        unit, factor = scale(options, problem)
        batch = options.batch_size or 1
        per_step, flops = round(item_lengths(problem, batch).mean * batch), entry["flops_per_token"]
        found = recorded(place, unit=unit, factor=factor, tokens_per_step=per_step, flops_per_token=flops)
        return found | {"peak_bytes": peak, "waited": waited}

    def examine(self, entry: dict[str, Any], folder: str, seed: int, windows: int, targets: int) -> dict[str, Any]:
        """What a trained model makes of its past, and a sample of what it writes.

        Args:
            windows, targets: of the loss by position, and with the context cut: the same tokens for every model.
        """
        own = self._entry(entry)
        problem = problem_of(own, self.data, sample_items=1)
        model = (load(folder) if own.spec is None else ForeignModel.from_pretrained(folder)).to(run_device())
        found: dict[str, Any] = {"positions": [], "cuts": [], "sample": ""}
        if isinstance(problem.validation, TextWindows):
            text, length = problem.validation.text, problem.validation.length
            sizes = self.data.tokenizer.byte_lengths() if scale(own.options, problem)[0] == "bits/byte" else None
            spans = loss_by_position(model, text, length=length, sizes=sizes, windows=windows)
            cuts = loss_by_context(model, text, length=length, sizes=sizes, targets=targets)
            found |= {"positions": [dataclasses.asdict(span) for span in spans], "cuts": [dataclasses.asdict(cut) for cut in cuts]}
        if own.spec is None:
            found["sample"] = self._stated(own).sample(model, seed)
        return found

    def spec(self, entry: dict[str, Any]) -> dict[str, Any]:
        """From what `measuring` builds the model of an entry; of pairs, the encoder's."""
        own = self._entry(entry)
        if own.spec is not None:
            return own.spec
        pairs = own.options.kind == "sequence_to_sequence"
        config = pair_configs(own.options)[0] if pairs else backbone_config(own.options)
        return {"source": "ours", "config": config.to_dict(), "vocab_size": self._vocab_size(), "causal": config.causal}

    def _vocab_size(self) -> int:
        if self.data is not None:
            return int(self.data.tokenizer.vocab_size)
        return task_of(self._contestant("performer", None, None).options)[0].vocab_size

    def _run(self, plan: Plan, problem: Problem, seconds: float | None) -> None:
        from .telling import Telling

        result = carry_out(plan, Telling(self.tell), problem=problem, training_seconds=seconds)
        if result is not None and result.signal is not None:
            raise KeyboardInterrupt

    def _entry(self, entry: dict[str, Any]) -> Contestant:
        spec = None if entry["source"] == "ours" else entry["options"]
        return self._contestant(entry["name"], spec, entry["options"])

    def _contestant(self, name: str, spec: dict[str, Any] | None, chosen: dict[str, Any] | None) -> Contestant:
        return contestant(self.options, name, spec, chosen)

    def _stated(self, entry: Contestant) -> Problem:
        return state_problem(entry.options, self.data)

    def _count(self, entry: Contestant, options: TrainOptions) -> int:
        with torch.device("meta"):
            return parameter_count(problem_of(dataclasses.replace(entry, options=options), self.data, sample_items=1).build())

    def _sized(self, entry: Contestant, parameters: int | None) -> Contestant:
        """The entry with so many parameters, as far as it can have them: what a function in a file gives is as it is."""
        if parameters is None or (entry.spec is not None and entry.spec["source"] == "file"):
            return entry
        if entry.spec is None:
            return dataclasses.replace(entry, options=sized(entry.options, parameters, lambda options: self._count(entry, options)))
        fitted = sized_architecture(entry.spec, parameters, vocab_size=self._vocab_size(), length=self.length or 1)
        return dataclasses.replace(entry, spec=fitted)

    def _flops(self, entry: Contestant, problem: Problem, model: Any, tokens: int) -> float:
        """Of a training step on items of so many tokens, padding among them."""
        if entry.spec is not None:
            return counted_flops(model, problem, entry.options)
        problem = dataclasses.replace(problem, tokens=tokens)
        with torch.device("meta"):
            shapes = problem.build()
        return step_cost(shapes, problem, entry.options).flops - spared_flops(shapes, problem, entry.options)

    def _affordable_step(self, entry: Contestant, problem: Problem) -> TrainingCost | None:
        """What a training step takes; None for a module of somebody else, which cannot be run on shapes alone.

        Raises:
            ValueError: more memory than there is.
        """
        if entry.spec is not None:
            return None
        with torch.device("meta"):
            model = problem.build()
        cost, room = step_cost(model, problem, entry.options), available_memory(run_device())
        if cost.total_bytes > room:
            raise ValueError(f"training needs about {size(cost.total_bytes)}, and {size(room)} are available")
        return cost


def _item_seconds(problem: Problem, model: Any, batch_size: int) -> float:
    """Of a validation, for an item among many."""
    items = evenly(problem.validation, max(batch_size, TIMED_ITEMS))
    validate(problem, model, evenly(items, 1), batch_size=1, seed=0)  # what comes first takes longer
    return validate(problem, model, items, batch_size=batch_size, seed=0).seconds / len(items)


def _brief(model: Any, problem: Problem, options: TrainOptions, *, seconds: float | None, steps: int | None) -> Any:
    """The losses of a short training with the schedule of a run."""
    assert options.learning_rate is not None
    schedule = Schedule(max_steps=steps, seconds=seconds, warmup=options.warmup, shape=options.schedule)
    optimizer = make_optimizer(model, learning_rate=options.learning_rate, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(SEARCH_SEED)
    schedule.start(seconds)
    step = 0
    while True:
        for batch in DataLoader(
            problem.train, batch_size=options.batch_size, shuffle=True, collate_fn=problem.collate, generator=generator
        ):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * schedule.factor(step)
            with forward_precision(options.precision):
                loss = problem.loss(model, {name: value.to(run_device()) for name, value in batch.items()})
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            yield float(loss.detach())
            if schedule.progress(step) >= 1:
                return
