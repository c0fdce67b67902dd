"""What a run folder says of a run, as a comparison keeps it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..training.run_folder import RunFolder


def recorded(folder: RunFolder, *, unit: str, factor: float, tokens_per_step: int, flops_per_token: float) -> dict[str, Any]:
    """The values of a `Trial` of a finished run, by name.

    Args:
        folder: of the run.
        unit: of the comparison; "accuracy", or what `factor` makes of nats.
        tokens_per_step, flops_per_token: what training took.

    Raises:
        ValueError: the run has no result.
    """
    result = folder.result()
    if result is None or not math.isfinite(result["validation_loss"]):
        raise ValueError(f"{folder.path} has no result")
    lines = folder.measurements()
    return {
        **_until(lines, int(result["steps"]), unit, factor, tokens_per_step, flops_per_token),
        "value": _value(result, unit, factor),
        "loss": result["validation_loss"],
        "accuracy": result["validation_accuracy"],
        "predicted": result["validation_predicted"],
    }


def so_far(folder: Path, *, unit: str, tokens_per_step: int, flops_per_token: float) -> dict[str, Any]:
    """The same of a run that failed, as far as it came: curve, steps, tokens, operations and seconds. Nothing where there is no run."""
    try:
        lines = RunFolder(folder).measurements()
        finite = [line for line in lines if _is_finite(line.get("validation_loss", 0.0))]
        steps = max((int(line["step"]) for line in lines), default=0)
        return _until(finite, steps, unit, 1 / math.log(2), tokens_per_step, flops_per_token)
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _until(
    lines: list[dict[str, Any]], steps: int, unit: str, factor: float, tokens_per_step: int, flops_per_token: float
) -> dict[str, Any]:
    """What training until `steps` took, and its curve."""
    timed = [line for line in lines if "seconds" in line]
    elapsed = _clock(timed)
    losses = [(line["step"], line["loss"]) for line in timed if line.get("loss") is not None]
    curve = []
    for line in lines:
        if "validation_loss" in line and not line.get("final"):
            step = line["step"]
            before = [loss for at, loss in losses if at <= step]
            curve.append(
                {
                    "step": step, "tokens": step * tokens_per_step, "seconds": elapsed(step),
                    "flops": step * tokens_per_step * flops_per_token, "value": _value(line, unit, factor),
                    "train": before[-1] if before else None,
                }
            )  # fmt: skip
    return {
        "steps": steps,
        "tokens": steps * tokens_per_step,
        "flops": steps * tokens_per_step * flops_per_token,
        "seconds": elapsed(steps),
        "curve": curve,
    }


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _value(line: dict[str, Any], unit: str, factor: float) -> float:
    if unit == "accuracy":
        return float(line["validation_accuracy"])
    if unit == "bits/byte" and "validation_bits_per_byte" in line:
        return float(line["validation_bits_per_byte"])
    return float(line["validation_loss"]) * factor


def _clock(timed: list[dict[str, Any]]) -> Any:
    """From a step to the seconds of training until then: between two that were logged in proportion, beyond the last as fast as before."""
    import numpy as np  # here: command lines that compute nothing load this module too

    steps = np.array([0, *(line["step"] for line in timed)], dtype=float)
    seconds = np.array([0.0, *(line["seconds"] for line in timed)])

    def at(step: int) -> float:
        if step > steps[-1] > 0:
            return float(seconds[-1] * step / steps[-1])
        return float(np.interp(step, steps, seconds))

    return at
