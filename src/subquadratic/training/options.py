"""The options of a training run, as they are given; `resolving.py` checks and completes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from .data_choice import DataOptions
from .numbers import require_value

TRACKERS = ("tensorboard", "trackio", "wandb")
LONGEST = 1e9  # seconds, some thirty years
PATHS = ("data", "validation_data", "tokenizer", "weights")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """Train one model on text, integers, a series of numbers, labelled rows, pairs or a synthetic task, and save it in a run folder.

    What is left at None comes from the model's line in `defaults.py`; see `resolving.py`.
    """

    model: str = "performer"
    """Backbone: performer, linformer, fastformer, feedback_transformer, gated_linear, perceiver_ar or transformer."""
    out: str | None = None
    """Run folder to write. Default: runs/MODEL-1, or the next free number."""
    overwrite: bool = False
    """Replace an earlier run in the folder."""
    resume: str | None = None
    """Continue a run that was stopped: its folder, or no value with --out (or for the newest in runs/). A finished run is trained
    further with a larger --max_steps or --budget, which count from its beginning; the learning rate warms up again."""
    weights: str | None = None
    """Saved model to take initial weights from, with a new optimizer and schedule."""

    causal: bool | None = None
    """Predict the next token (true), or masked tokens from both sides (false). Default: true; for a classifier false if possible."""
    dim: int | None = None
    """Width of the model."""
    depth: int | None = None
    """Number of layers."""
    heads: int | None = None
    """Number of attention heads."""
    context: int | None = None
    """Tokens in a training window; rows and pairs are cut to this length."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Any further field of the model's configuration, as --fields.NAME VALUE."""

    max_steps: int | None = None
    """Total number of optimizer steps."""
    budget: str | None = None
    """Time limit for the whole run, such as 300, 90s, 5m or 1h30m. Default: 5m, or none if max_steps is given."""
    batch_size: int | None = None
    """Windows or rows in a batch, per device."""
    accumulation: int = 1
    """Batches per optimizer step (gradient accumulation); every prediction has the same weight."""
    learning_rate: float | None = None
    """Peak learning rate, reached after the warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: falls to nothing (linear) or to a hundredth (cosine), or stays."""
    warmup: float = 0.05
    """Fraction of the run over which the learning rate warms up."""
    weight_decay: float = 0.1
    """AdamW weight decay for matrices; norms, biases and embeddings are not decayed."""
    clip: float = 1.0
    """Clip the gradient to this norm; 0 for no clipping."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, such as 0.999; the average is validated and saved."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass. auto: bfloat16 on a GPU that has it and on a CPU with AVX512-BF16 (without AMX), where it is
    faster; else float32. Weights, their updates and all validations are float32 in any case."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""
    seed: int = 0
    """Random seed, for weights, data order, dropout, masks and random features."""

    evaluations: int = 4
    """Validations on a small sample during the run, each with a sample of text and a checkpoint."""
    validation_tokens: int | None = None
    """Validation tokens to use at the end, evenly spread. Default: all, or as many as a tenth of the budget allows."""
    patience: int | None = None
    """Stop early after this many validations without a new best loss."""
    save_every: int | None = None
    """Steps between additional checkpoints; there is one at each validation."""
    keep: int = 1
    """Number of newest checkpoints to keep; the best model is always kept."""
    report_to: str | None = None
    """Trackers in addition to metrics.jsonl, comma-separated: tensorboard, trackio, wandb."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object per line; docs/command_line.md lists the keys."""
    dry_run: bool = False
    """Print what the run would need (shapes, parameters, memory, time) and exit."""
    find_lr: bool = False
    """Try learning rates from tiny to too large over a hundred steps, show the losses, and exit."""

    def seconds(self) -> float | None:
        """The budget in seconds; None where there is none."""
        return None if self.budget is None else parse_duration(self.budget)

    def trackers(self) -> list[str]:
        """The names in `report_to`.

        Raises:
            ValueError: one that is not known.
        """
        names = [name.strip() for name in (self.report_to or "").split(",") if name.strip() not in ("", "none")]
        for name in names:
            require_value(name in TRACKERS, "report_to", f"of {', '.join(TRACKERS)}", name)
        return names


def parse_duration(text: str) -> float:
    """Seconds in `300`, `90s`, `5m`, `1.5h` or `1h30m`.

    Raises:
        ValueError: anything else, or no time at all.
    """
    pattern = r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?"
    found = re.fullmatch(pattern, str(text).strip().lower())
    parts = found.groupdict(default="0") if found else {"h": "0", "m": "0", "s": "0"}
    seconds = 3600 * float(parts["h"]) + 60 * float(parts["m"]) + float(parts["s"])
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"budget must be a time such as 300, 90s, 5m or 1h30m, got {text!r}")
    return seconds
