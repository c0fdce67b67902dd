"""What a model costs at each length, compared with exact attention, and what each of its options adds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..core.choices import POSITIONS
from ..heads.language_model import LanguageModel
from ..models.config import BackboneConfig
from ..models.transformer import TransformerConfig
from .cost import TrainingCost, costs_along, training_cost
from .describe import model_facts
from .shape_run import on_meta

OTHERWISE = ("positions", "axial_shape", "cross_attention", "context_dim", "window")  # of the exact twin: rotary, and all there is
OPTIONS_LENGTH, OPTIONS_DEPTH = 256, 2  # of the models on which options are compared
SMALLEST = 0.005  # share of a cost that is worth a line


@dataclass(frozen=True, kw_only=True)
class LengthRow:
    """Costs at one length, per token, of a training step, and of one more token after it (None: bidirectional)."""

    length: int
    flops_per_token: float
    activation_bytes_per_token: float
    state_bytes: int | None
    next_token_flops: int | None


@dataclass(frozen=True, kw_only=True)
class OptionRow:
    """What changing one field does: parameters, operations and activation bytes over those without, less one."""

    name: str
    before: Any
    after: Any
    parameters: float
    flops: float
    activation_bytes: float


def build_on_meta(config: BackboneConfig, *, vocab_size: int, length: int) -> LanguageModel:
    """The language model that `subq train` would make, without its weights.

    Raises:
        ValueError: a matrix of it has more numbers than can be counted.
    """
    limit = length if config.positions in ("learned", "axial") else None
    try:
        with on_meta():
            return LanguageModel(config, vocab_size=vocab_size, max_length=limit, tie_embeddings=True)
    except RuntimeError as error:
        raise ValueError(f"this model is too large for any machine: {error}") from error


def exact_twin(config: BackboneConfig) -> TransformerConfig:
    """A Transformer of the same size, with what else it can have in common."""
    names = {field.name for field in dataclasses.fields(TransformerConfig)} & {field.name for field in dataclasses.fields(config)}
    return TransformerConfig(**{name: getattr(config, name) for name in names - set(OTHERWISE)})


def doubling(length: int, *, first: int = 256) -> list[int]:
    """`first`, twice that, ... and `length`."""
    found = [min(first, length)]
    while found[-1] < length:
        found.append(min(2 * found[-1], length))
    return found


def length_rows(model: nn.Module, lengths: list[int], *, batch_size: int, precision: str) -> tuple[list[LengthRow], TrainingCost]:
    """One row for each length, and all about a training step at the longest, which comes last."""
    rows = []
    costs = costs_along(model, lengths=lengths, batch_size=batch_size, precision=precision)
    for length, (step, after) in zip(lengths, costs, strict=True):
        tokens = length * batch_size
        rows.append(
            LengthRow(
                length=length,
                flops_per_token=step.flops / tokens,
                activation_bytes_per_token=(step.activation_bytes + step.temporary_bytes) / tokens,
                state_bytes=None if after is None else after.state_bytes // batch_size,
                next_token_flops=None if after is None else after.flops // batch_size,
            )
        )
    return rows, costs[-1][0]


def wins_from(rows: list[LengthRow], exact: list[LengthRow], name: str) -> int | None:
    """The shortest length from which on a cost stays below that of exact attention; None if it never does."""
    found = None
    for row, other in zip(reversed(rows), reversed(exact), strict=True):
        own, its = getattr(row, name), getattr(other, name)
        if own is None or its is None or own >= its:
            break
        found = row.length
    return found


def option_rows(config: BackboneConfig, *, vocab_size: int, progress: Callable[[int, int], None] | None = None) -> list[OptionRow]:
    """What each field of the configuration costs, for a model of at most two layers and a window of 256 tokens."""
    small = config.replace(depth=min(config.depth, OPTIONS_DEPTH), **_per_layer(config))
    if hasattr(small, "max_length"):
        small = small.replace(max_length=OPTIONS_LENGTH)
    base = _measured(small, vocab_size)
    changes = list(_changes(small))
    rows = []
    for done, (name, before, after) in enumerate(changes):
        if progress is not None:
            progress(done, len(changes))
        try:
            found = _measured(small.replace(**{name: after}), vocab_size)
        except ValueError:  # fields that do not go together, such as a longer head with rotary positions
            continue
        ratios = [new / old - 1 for new, old in zip(found, base, strict=True)]
        rows.append(OptionRow(name=name, before=before, after=after, parameters=ratios[0], flops=ratios[1], activation_bytes=ratios[2]))
    return rows


def matters(row: OptionRow) -> bool:
    """Whether it changes a cost by a share worth a line."""
    return max(abs(row.parameters), abs(row.flops), abs(row.activation_bytes)) >= SMALLEST


def _measured(config: BackboneConfig, vocab_size: int) -> tuple[int, int, int]:
    cost = training_cost(build_on_meta(config, vocab_size=vocab_size, length=OPTIONS_LENGTH), batch_size=1, length=OPTIONS_LENGTH)
    return cost.parameters, cost.flops, cost.activation_bytes + cost.temporary_bytes


def _per_layer(config: BackboneConfig) -> dict[str, Any]:
    """Fields with a value for each layer, for fewer layers."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple) and len(value) == config.depth and field.name != "axial_shape":
            found[field.name] = value[:OPTIONS_DEPTH]
    return found


def _changes(config: BackboneConfig) -> Iterator[tuple[str, Any, Any]]:
    """(field, value, another value) of everything that may cost something: switches are turned, numbers doubled, names swapped."""
    texts = {field.name: field.text for field in model_facts(config.model_type).fields}
    for field in dataclasses.fields(config):
        value, text = getattr(config, field.name), texts.get(field.name, "")
        if field.name in ("causal", "cross_attention", "context_dim", "context_length", "max_length", "axial_shape", "head_dim"):
            continue  # another model, or nothing by itself
        for other in _others(field.name, value, text, config):
            yield field.name, value, other


def _others(name: str, value: Any, text: str, config: BackboneConfig) -> list[Any]:
    if name == "positions":
        return [kind for kind in POSITIONS if kind != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [word for word in re.findall(r'"(\w+)"', text) if word != value]
    if isinstance(value, float):
        return [2 * value if value else 0.1]
    if isinstance(value, int):
        return [2 * value if value else max(1, config.heads // 2)]
    if value is None and name == "window":
        return [OPTIONS_LENGTH // 4]
    if value is None and name == "features":
        return [2 * _default_features(config)]
    return []


def _default_features(config: BackboneConfig) -> int:
    from ..attention.favor.features import default_features

    return default_features(config.head_width)
