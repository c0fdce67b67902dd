"""A compared model built anew for a length, from what can be handed to another process: a dictionary of plain values.

    {"source": "ours", "config": {...}}                                     BackboneConfig.to_dict()
    {"source": "file", "path": "net.py", "function": "build"}               of `comparison.foreign`
    {"source": "transformers", "path": "folder"}                            likewise

Weights are random: time and memory do not depend on them.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch

from ...costs.cost import training_cost
from ...costs.info import build_on_meta
from ...heads.language_model import LanguageModel
from ...models.config import BackboneConfig
from ...training.configuration import length_limit

Spec = dict[str, Any]
NEW_TOKENS = 16  # decoded in one call


def build_subject(spec: Spec, *, length: int, vocab_size: int) -> Any:
    """The model, with room for what is measured at a length: so many tokens, and some more that are decoded.

    Raises:
        ValueError: a configuration that cannot be that long.
    """
    room = room_for(length)
    torch.manual_seed(0)
    if spec["source"] != "ours":
        from ..foreign import ForeignModel

        return ForeignModel(spec, vocab_size=vocab_size, length=room)
    config = config_for(spec, room)
    return LanguageModel(config, vocab_size=vocab_size, max_length=length_limit(config, room), tie_embeddings=True)


def room_for(length: int) -> int:
    """Positions that a model needs to be measured at a length."""
    return length + NEW_TOKENS + 1


def config_for(spec: Spec, room: int) -> BackboneConfig:
    """The configuration of one of our models, with as many positions, where it has weights for each."""
    config = BackboneConfig.from_dict(spec["config"])
    changes: dict[str, Any] = {}
    if getattr(config, "max_length", None) is not None:
        changes["max_length"] = room
    if config.axial_shape is not None:
        changes["axial_shape"] = None  # near-square, whatever the length
    return config.replace(**changes)


def expected_bytes(spec: Spec, *, length: int, vocab_size: int, measured: dict[int, int]) -> int | None:
    """About what a training step on one sequence takes, weights included, without an optimizer.

    Args:
        measured: peaks above the weights, by shorter lengths. Of a foreign model nothing else is known, and without two of them nothing.
    """
    if spec["source"] == "ours":
        room = room_for(length)
        model = build_on_meta(config_for(spec, room), vocab_size=vocab_size, length=room)
        cost = training_cost(model, batch_size=1, length=length + 1)
        return cost.total_bytes - cost.optimizer_bytes
    return None if len(measured) < 2 else round(extrapolated(measured, length))


def extrapolated(measured: dict[int, Any], length: int) -> float:
    """What costs at shorter lengths make of a longer one: along the line through the last two in log-log, whose slope is held between a
    linear and a quadratic growth; from a single one, linear.

    Raises:
        ValueError: nothing was measured.
    """
    if not measured:
        raise ValueError("measured must hold at least one length, got none")
    *_, last = lengths = sorted(measured)
    slope = 1.0
    if len(lengths) > 1 and min(measured[one] for one in lengths[-2:]) > 0:
        slope = log(measured[last] / measured[lengths[-2]]) / log(last / lengths[-2])
    return measured[last] * (length / last) ** min(max(slope, 1.0), 2.0)
