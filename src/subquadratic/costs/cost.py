"""What a model costs, before it is built: parameters, memory of a training step, size of the streaming state, operations.

A model made under `torch.device("meta")` has no weights and is enough:

    with torch.device("meta"):
        model = LanguageModel(config, vocab_size=260)
    training_cost(model, batch_size=4, length=512).total_bytes

Numbers are those of a run on shapes (`abstract_run`), for lengths up to some thousand tokens. Longer ones, and those of a model
that runs token after token, are extrapolated from shorter ones along the terms that costs here have: a constant, the length, its
square, and for a feedback memory the memories read, which stop growing at `memory_length`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn

from ..heads.cross_entropy import chunked_cross_entropy
from ..heads.encoder_decoder import EncoderDecoder
from ..heads.language_model import LanguageModel
from ..heads.quantization import parameter_count
from ..heads.sequence_classifier import SequenceClassifier
from .abstract_run import abstract_run

ADAMW_BYTES = 8  # per trained parameter: two moments in float32
ALLOWANCE = 1.1  # total over the sum of its parts: what the allocator rounds up, and what kernels use inside
GROWTH = (1, 2, 4)  # lengths to extrapolate from, as multiples of the shortest; up to the longest a sequence is run as it is
TRAINING, DECODING = 1024, 256  # shortest lengths to extrapolate a training step and a state from
LOGITS = signature(chunked_cross_entropy).parameters["logits_at_once"].default  # more are computed in pieces
SEGMENTS = (2, 3, 4)  # that a sequential model is run for
WIDTHS = ("window", "local_window", "latents", "memory_length")  # fields that end a cost's growth: samples must lie beyond them


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """One training step of one process. `activation_bytes` is what the forward pass keeps for the backward pass,
    `temporary_bytes` the most that comes on top of it at any moment; `total_bytes` the sum of all, and a tenth more.
    `flops` are those of forward and backward together; elementwise operations do not count."""

    parameters: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    temporary_bytes: int
    total_bytes: int
    forward_flops: int
    flops: int
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class DecodeCost:
    """One more token after a context: bytes of the state that is carried, and operations for that token."""

    state_bytes: int
    flops: int
    extrapolated: bool


def training_cost(model: nn.Module, *, batch_size: int, length: int, precision: str = "float32") -> TrainingCost:
    """What a step of AdamW on `batch_size` sequences of `length` tokens takes.

    Args:
        model: a LanguageModel, SequenceClassifier or EncoderDecoder (source and target both of that length), on any
            device, also meta.
        batch_size: sequences in one forward pass.
        length: tokens in each.
        precision: "float32", or "bfloat16" for autocast.

    Raises:
        ValueError: values that the model does not take, such as more tokens than its `max_length`.
    """
    return _training_cost(model, batch_size, length, TRAINING, partial(_training_sample, model, precision))


def costs_along(
    model: nn.Module, *, lengths: Sequence[int], batch_size: int = 1, precision: str = "float32"
) -> list[tuple[TrainingCost, DecodeCost | None]]:
    """`training_cost` and `decode_cost` (None for bidirectional models) at several lengths, from few runs: all but the longest are quick
    rather than exact beyond a thousand tokens."""
    train, decode = cache(partial(_training_sample, model, precision)), cache(partial(_decode_sample, model))
    causal = all(config.causal for config in _configs(model)) or isinstance(model, EncoderDecoder)
    later: list[DecodeCost | None] = [None for _ in lengths]
    if causal:
        later = [_decode_cost(model, batch_size, max(length - 1, 1), decode, shortest=DECODING // 2) for length in lengths]
    # Where a token costs the same after any context, all of them together grow with their number, not with its square.
    long = [after for after, length in zip(later, lengths, strict=True) if after is not None and after.extrapolated]
    growth = GROWTH[:2] if len(long) > 1 and len({(after.state_bytes, after.flops) for after in long}) == 1 else GROWTH
    rows: list[tuple[TrainingCost, DecodeCost | None]] = []
    for length, after in zip(lengths, later, strict=True):
        short = length < max(lengths) and batch_size * (length - 1) <= _in_one_piece(model)
        rows.append((_training_cost(model, batch_size, length, DECODING if short else TRAINING, train, growth=growth), after))
    return rows


def _training_cost(
    model: nn.Module, batch: int, length: int, shortest: int, sample: Callable[..., tuple[int, ...]], growth: Sequence[int] = GROWTH
) -> TrainingCost:
    lengths = _lengths(model, length, shortest, growth)
    extrapolated = lengths != [length]
    many = _batch_to_measure(model, batch, length, lengths[0]) if extrapolated else batch
    values = _along_length(model, length, lengths, partial(sample, many))
    activation, temporary, forward, flops = (value * batch // many for value in values)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tensors = [*model.parameters(), *model.buffers()]
    parts = {
        "parameter_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "gradient_bytes": sum(parameter.numel() * parameter.element_size() for parameter in trained),
        "optimizer_bytes": ADAMW_BYTES * sum(parameter.numel() for parameter in trained),
        "activation_bytes": activation,
        "temporary_bytes": temporary,
    }
    return TrainingCost(
        parameters=parameter_count(model),
        **parts,
        total_bytes=int(sum(parts.values()) * ALLOWANCE),
        forward_flops=forward,
        flops=flops,
        extrapolated=extrapolated,
    )


def decode_cost(model: nn.Module, *, context: int, batch_size: int = 1) -> DecodeCost:
    """What it takes to go on after `context` tokens, one at a time.

    Args:
        model: as in `training_cost`, causal; for an EncoderDecoder `context` is the length of its source.
        context: tokens before, at least 1.
        batch_size: sequences side by side.

    Raises:
        NotCausalError: the model is bidirectional.
        ValueError: more tokens than the model takes.
    """
    return _decode_cost(model, batch_size, context, partial(_decode_sample, model))


def _decode_cost(
    model: nn.Module, batch: int, context: int, sample: Callable[..., tuple[int, ...]], shortest: int = DECODING
) -> DecodeCost:
    lengths = _lengths(model, context, shortest, growth=(1, 2))  # a token never costs more than in proportion to those before it
    state_bytes, flops = _along_length(model, context, lengths, partial(sample, batch))
    return DecodeCost(state_bytes=state_bytes, flops=flops, extrapolated=lengths != [context])


def _training_sample(model: nn.Module, precision: str, batch: int, length: int) -> tuple[int, int, int, int]:
    with abstract_run(model, gradients=True) as run, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        run.model.train()
        loss = _loss(run.model, torch.zeros(batch, length, dtype=torch.int64))
        kept, forward = run.ledger.live, run.ledger.flops
        loss.backward()
        return kept, run.ledger.peak - kept, forward, run.ledger.flops


def _batch_to_measure(model: nn.Module, batch: int, length: int, shortest: int) -> int:
    """Costs are proportional to the batch, so that short sequences, many enough, stand for the predictions of long ones."""
    if _sequential(model) or any(config.aligned_right for config in _configs(model)) or isinstance(model, SequenceClassifier):
        return batch  # few predictions, or too many sequences
    in_one_piece = _in_one_piece(model)
    return max(batch, in_one_piece // (shortest - 1) + 1) if batch * (length - 1) > in_one_piece else batch


def _in_one_piece(model: nn.Module) -> int:
    """Predictions whose logits are computed together."""
    return LOGITS // max((part.vocab_size for part in model.modules() if isinstance(part, LanguageModel)), default=1)


def _loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    if isinstance(model, LanguageModel):
        return model.loss(tokens)
    if isinstance(model, SequenceClassifier):
        return model.loss(tokens, torch.zeros(len(tokens), dtype=torch.int64))
    if isinstance(model, EncoderDecoder):
        return model.loss(tokens, tokens)
    raise ValueError(f"model must be a LanguageModel, SequenceClassifier or EncoderDecoder, got {type(model).__name__}")


def _decode_sample(model: nn.Module, batch: int, context: int) -> tuple[int, int]:
    with torch.no_grad(), abstract_run(model) as run:
        shapes = run.model.eval()
        before = torch.zeros(batch, context, dtype=torch.int64)
        if isinstance(model, EncoderDecoder):
            state = shapes.init_state(source=before)
        else:
            _, state = shapes.extend(before, shapes.init_state(batch))
        flops = run.ledger.flops
        shapes.extend(torch.zeros(batch, 1, dtype=torch.int64), state)
        return state.nbytes(), run.ledger.flops - flops


def _along_length(model: nn.Module, length: int, lengths: list[int], sample: Callable[[int], tuple[int, ...]]) -> tuple[int, ...]:
    """What `sample` gives for `length` tokens: measured, or fitted to measurements of shorter `lengths`."""
    if lengths == [length]:
        return sample(length)
    measured = np.array([sample(short) for short in lengths], dtype=np.float64)
    terms = np.array([_terms(model, short)[: len(lengths)] for short in lengths])
    scale = np.abs(terms).max(axis=0).clip(min=1.0)
    weights = np.linalg.lstsq(terms / scale, measured, rcond=1e-9)[0]
    fitted = (np.array(_terms(model, length)[: len(lengths)]) / scale) @ weights
    return tuple(int(value) for value in np.maximum(fitted, measured[-1]).round())


def _lengths(model: nn.Module, length: int, shortest: int, growth: Sequence[int] = GROWTH) -> list[int]:
    """The lengths to measure, multiples of the shortest: `length` itself where that is quick."""
    segment = _sequential(model)
    if segment:
        # One token more than the segments: the last one is predicted, and not read.
        short = [count * segment + 1 for count in SEGMENTS]
    else:
        widths = [getattr(config, name, None) or 0 for config in _configs(model) for name in WIDTHS]
        shortest = max([shortest, *(2 * width for width in widths)])  # a local head sees its own window and the one before
        short = [times * shortest for times in growth]
    return short if length > short[-1] else [length]


def _sequential(model: nn.Module) -> int:
    """Tokens in a segment of a model that runs segment after segment; 0 for one that does not."""
    return max((getattr(config, "segment_length", 0) for config in _configs(model)), default=0)


def _terms(model: nn.Module, length: int) -> Sequence[float]:
    """What a cost grows with."""
    config = next((config for config in _configs(model) if hasattr(config, "segment_length")), None)
    if config is None:
        return 1.0, length, float(length) ** 2
    segment, memory = config.segment_length, config.memory_length
    segments = (length - 1) / segment
    growing = min(segments, memory / segment)  # segments that still see fewer memories than there can be
    read = segment * growing * (growing - 1) / 2 + (segments - growing) * memory
    return 1.0, segments, max(read, 0.0)


def _configs(model: nn.Module) -> list[Any]:
    values: list[Any] = [getattr(model, name, None) for name in ("config", "encoder_config", "decoder_config")]
    return [value for value in values if dataclasses.is_dataclass(value)]


def state_is_constant(model: nn.Module) -> bool:
    """Whether a stream of any length takes a state of one size: the model is causal, has no `max_length`, and keeps no cache that
    grows."""
    configs = _configs(model)
    if not all(config.causal for config in configs) or getattr(model, "max_length", None) is not None:
        return False
    if _sequential(model):
        return True  # a line of memories, made at the start
    width = max([32, *(getattr(config, name, None) or 0 for config in configs for name in WIDTHS)])
    return _state_bytes(model, 2 * width) == _state_bytes(model, 4 * width)


@torch.no_grad()
def _state_bytes(model: Any, context: int) -> int:
    """Of a model in eval mode; one with weights really reads the tokens, which is quicker than pretending to."""
    device = next(model.parameters()).device
    if device.type == "meta":
        return _decode_sample(model, 1, context)[0]
    tokens = torch.zeros(1, context, dtype=torch.int64, device=device)
    return int(model.extend(tokens, model.init_state(1))[1].nbytes())
