"""What a score may be compared with, computed on the very items that are scored: answers of those who learned nothing, or a packer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..evaluation.windows import TextWindows
from ..training.problems.language import token_references
from ..training.problems.problem import Problem, evenly


def references(problem: Problem, items: int, tokenizer: Any, unit: str) -> dict[str, float]:
    """By name, in the comparison's unit: of rows the share of the most common class; of a text byte frequencies and xz, of the tokens that
    are scored and in their order. Of integers and numbers the unit is that of a token.

    Args:
        items: how many of the validation data are scored, spread evenly, as at the end of a run.
    """
    chosen = evenly(problem.validation, items)
    if problem.kind == "classification":
        classes = Counter(int(chosen[place]["label"]) for place in range(len(chosen)))
        return {"most_common_class_accuracy": max(classes.values()) / classes.total()}
    if not isinstance(problem.validation, TextWindows):
        return {}
    if passes := problem.validation.passes:  # a masked model's tokens stand apart: the windows that they are from, each once
        numbers = sorted({place // passes for place in getattr(chosen, "indices", range(len(chosen)))})
        scored = [problem.validation[number * passes]["tokens"].numpy() for number in numbers]
    else:
        scored = [item["tokens"][item["scored"]].numpy() for item in (chosen[place] for place in range(len(chosen)))]
    named = token_references(np.concatenate(scored), tokenizer)
    return {name: value for name, value in named.items() if name.endswith(unit.replace("/", "_per_").replace("value", "token"))}
