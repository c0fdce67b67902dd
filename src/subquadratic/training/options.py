"""The options of a training run, checked and completed."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from .defaults import DEFAULTS, ModelDefaults

DEFAULT_BUDGET = "5m"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train one model on text and leave it in a run folder.

    What is left at None comes from the model's line in `defaults.py`; see `resolve`.
    """

    model: str = "performer"
    """Backbone: performer, linformer, fastformer, feedback_transformer, perceiver_ar or transformer."""
    data: str | None = None
    """Text file or folder of text files. Default: the source of Python's own standard library."""
    out: str | None = None
    """Run folder to write. Default: runs/MODEL-1, or the next free number."""
    overwrite: bool = False
    """Write into the run folder even if it is not empty."""

    causal: bool | None = None
    """Predict the next token (true), or masked tokens from both sides (false). Default: true."""
    dim: int | None = None
    """Width of the model."""
    depth: int | None = None
    """Number of layers."""
    heads: int | None = None
    """Number of attention heads."""
    context: int | None = None
    """Tokens in a training window."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Any further field of the model's configuration, as --fields.NAME VALUE."""

    max_steps: int | None = None
    """Optimizer steps to take."""
    budget: str | None = None
    """Time the whole run may take, as 300, 90s, 5m or 1h30m. Default: 5m, or none where max_steps is given."""
    batch_size: int | None = None
    """Windows in a batch, on each device."""
    accumulation: int = 1
    """Batches in an optimizer step."""
    learning_rate: float | None = None
    """Peak learning rate; it rises over the warm-up and falls along a cosine."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises."""
    weight_decay: float = 0.1
    """AdamW weight decay of matrices; norms, biases and embeddings have none."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    evaluations: int = 4
    """Validations on a small sample of windows during the run."""
    validation_tokens: int | None = None
    """Validation text to use at the end, spread evenly. Default: all of it, or what fits into a tenth of the budget."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass. auto: bfloat16 where a GPU has it, else float32."""
    seed: int = 0
    """Seed of weights, order of the data, dropout, masks and random features."""

    def resolve(self) -> TrainOptions:
        """The same run with every choice made.

        Raises:
            ValueError: an unknown model, or a value out of range.
        """
        if self.model not in DEFAULTS:  # it may have been added to models/ since
            from ..models.config import model_types
            from ..ops.errors import require_choice

            require_choice("model", self.model, model_types())
        defaults = DEFAULTS.get(self.model, ModelDefaults())
        chosen = dataclasses.replace(
            self,
            causal=True if self.causal is None else self.causal,
            dim=_first(self.dim, defaults.dim),
            depth=_first(self.depth, defaults.depth),
            heads=_first(self.heads, defaults.heads),
            context=_first(self.context, defaults.context),
            fields={**defaults.fields, **self.fields},
            budget=DEFAULT_BUDGET if self.budget is None and self.max_steps is None else self.budget,
            batch_size=_first(self.batch_size, defaults.batch_size),
            learning_rate=_first(self.learning_rate, defaults.learning_rate),
        )
        chosen._check()
        return chosen

    def seconds(self) -> float | None:
        """The budget in seconds; None where there is none."""
        return None if self.budget is None else parse_duration(self.budget)

    def _check(self) -> None:
        for name in ("dim", "depth", "heads", "batch_size", "accumulation"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        assert self.context is not None and self.learning_rate is not None
        _require(self.context >= 2, "context", "at least 2", self.context)
        _require(self.max_steps is None or self.max_steps >= 1, "max_steps", "at least 1", self.max_steps)
        _require(self.evaluations >= 0, "evaluations", "at least 0", self.evaluations)
        _require(
            self.validation_tokens is None or self.validation_tokens >= 1,
            "validation_tokens",
            "at least 1",
            self.validation_tokens,
        )
        _require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        _require(0 <= self.warmup < 1, "warmup", "from 0 up to 1 (a share of the run)", self.warmup)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
        _require(0 <= self.clip < math.inf, "clip", "at least 0", self.clip)
        _require(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)
        precisions = ("auto", "float32", "bfloat16")
        _require(self.precision in precisions, "precision", f"one of {', '.join(precisions)}", self.precision)
        if self.budget is not None:
            parse_duration(self.budget)


def parse_duration(text: str) -> float:
    """Seconds in `300`, `90s`, `5m`, `1.5h` or `1h30m`.

    Raises:
        ValueError: anything else, or no time at all.
    """
    pattern = r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?"
    found = re.fullmatch(pattern, str(text).strip().lower())
    parts = found.groupdict(default="0") if found else {"h": "0", "m": "0", "s": "0"}
    seconds = 3600 * float(parts["h"]) + 60 * float(parts["m"]) + float(parts["s"])
    if seconds <= 0:
        raise ValueError(f"budget must be a time such as 300, 90s, 5m or 1h30m, got {text!r}")
    return seconds


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _require(condition: bool, name: str, allowed: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
