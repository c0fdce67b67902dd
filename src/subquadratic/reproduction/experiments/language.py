"""Language models of the standard library's source code: whether they use what is far back, and whether they read on past their training
length.

Every comparison is of the same predicted bytes, so that what differs is the context alone: a model that looks at the last bytes only gains
nothing from more.

Axes: B batch, N length, T predicted bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import models
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from ..shared import shared
from .controls import leak, spread, without_attention_
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Done, Plan, seeded, train

LENGTH, BATCH, STEPS = 512, 8, 600
WINDOWS = 128  # of validation text, evenly spread
CONTEXTS = (16, 32, 64, 128, 256)  # at least so many bytes before, and less than twice as many
FAR, PIECE, BLOCK = 65_536, 2048, 4096
CONTROL = "without attention"
FORMS: dict[str, Any] = {
    "exact attention": lambda **sizes: models.TransformerConfig(**sizes),
    "Performer": lambda **sizes: models.PerformerConfig(**sizes, features=64),
    "gated linear": lambda **sizes: models.GatedLinearConfig(**sizes),
    "Linformer": lambda **sizes: models.LinformerConfig(**sizes, max_length=LENGTH, slots=64),
    "Fastformer": lambda **sizes: models.FastformerConfig(**sizes),
    CONTROL: lambda **sizes: models.TransformerConfig(**sizes),
}
STREAMS = ("Performer", "gated linear", "Fastformer")


@shared
def trained(setting: Setting, name: str) -> tuple[LanguageModel, Done]:
    """A causal model and its run; once for all claims that ask."""
    config = FORMS[name](dim=96, depth=2, heads=3, token_shift=True)
    model = seeded(setting, LanguageModel, config, vocab_size=VOCABULARY, max_length=LENGTH if name == "Linformer" else None)
    if name == CONTROL:
        without_attention_(model)
    train_bytes = bytes_of_stdlib(setting).train
    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=BATCH, rate=3e-3)

    def batch(step: int) -> dict[str, Any]:
        return {"tokens": windows(train_bytes, LENGTH, BATCH, seed=10_000 * (setting.seed + 1) + step)}

    return model, train(model, batch, plan, setting, name=name)


def by_position(setting: Setting) -> Measurement:
    """The last 256 bytes of windows of 512, predicted from all bytes of the window before them and from fewer."""
    text = _spread_windows(setting)
    numbers: dict[str, float] = {}
    margins: dict[str, float] = {}
    lines, rows = {}, []
    for name in FORMS:
        model, done = trained(setting, name)
        bits = {context: _bits(model, text, context) for context in CONTEXTS}
        lines[name] = [(float(context), float(bits[context].mean())) for context in CONTEXTS]
        numbers[f"{name}, gain"], margins[f"{name}, gain"] = spread((bits[CONTEXTS[0]] - bits[CONTEXTS[-1]]).tolist())
        numbers[f"{name}, late"] = float(bits[CONTEXTS[-1]].mean())
        rows.append([name, *(f"{value:.3f}" for _, value in lines[name]), f"{done.seconds:.0f} s"])
    numbers["leak"] = _leaks(setting, tuple(FORMS))
    return Measurement(
        numbers=numbers,
        margins=margins,
        columns=["bits per byte", *(f"after {low} to {2 * low - 1}" for low in CONTEXTS), "training"],
        rows=rows,
        plot=Plot(x="bytes before, at least", y="bits per byte", series=lines, y_log=False, dashed=(CONTROL,)),
        setup=_setup(
            setting,
            f"the same {LENGTH - CONTEXTS[-1]} bytes of each of {len(text)} windows of validation text, after all bytes of it or fewer",
        ),
    )


def long_range(setting: Setting) -> Measurement:
    """The same models with their state carried on, far beyond what they were trained with."""
    length = FAR if setting.effort >= 1 else 4 * LENGTH
    block = BLOCK if setting.effort >= 1 else LENGTH
    half = LENGTH // 2
    text = torch.from_numpy(np.asarray(bytes_of_stdlib(setting).validation[:length]).astype(np.int64))
    parts = text.unfold(0, LENGTH, half)  # each predicts its second half
    targets = (parts.shape[0] * half // block) * block  # predicted bytes, from the first part's second half on, in whole blocks
    control = _blocks(_late_bits(trained(setting, CONTROL)[0], parts), targets, block)
    numbers: dict[str, float] = {}
    margins: dict[str, float] = {}
    lines, rows = {}, []
    for name in STREAMS:
        model, _ = trained(setting, name)
        setting.say(f"{name} reads {length:,} bytes")
        fresh = _blocks(_late_bits(model, parts), targets, block)
        stream = _blocks(_stream_bits(model, text)[half - 1 :], targets, block)
        lines[f"{name}, state carried on"] = [(float(half + block * (i + 1)), float(value)) for i, value in enumerate(stream)]
        lines[f"{name}, windows"] = [(float(half + block * (i + 1)), float(value)) for i, value in enumerate(fresh)]
        numbers[name], margins[name] = spread((stream - fresh)[1:].tolist())  # the first block is partly within the trained length
        numbers[f"attention, {name}"], margins[f"attention, {name}"] = spread((control - fresh).tolist())
        rows.append([name, f"{float(fresh[1:].mean()):.3f}", f"{float(stream[1:].mean()):.3f}", f"{float(stream[-1] - fresh[-1]):+.3f}"])
    rows.append([CONTROL, f"{float(control[1:].mean()):.3f}", "-", "-"])
    numbers["leak"] = _leaks(setting, STREAMS)
    return Measurement(
        numbers=numbers,
        margins=margins,
        columns=["bits per byte", "windows, after 256 to 511", "state carried on", "stream less windows, last block"],
        rows=rows,
        plot=Plot(x="bytes before", y="bits per byte", series=lines, y_log=False, dashed=tuple(f"{name}, windows" for name in STREAMS)),
        setup=_setup(
            setting,
            f"one stream of {length:,} bytes of validation text, and the same bytes at the ends of windows of {LENGTH}; the "
            f"intervals are over "
            f"blocks of {block:,} bytes",
        ),
    )


def _spread_windows(setting: Setting) -> Tensor:
    """(B, 512) windows of validation text, the same for all models and seeds."""
    text = bytes_of_stdlib(setting).validation
    starts = np.linspace(0, len(text) - LENGTH, setting.scaled(WINDOWS, least=2)).astype(np.int64)
    return torch.from_numpy(np.stack([text[start : start + LENGTH] for start in starts]).astype(np.int64))


def _bits(model: LanguageModel, text: Tensor, context: int) -> Tensor:
    """(B,) mean bits of the bytes from place 256 on, each after `context` to 2 `context` - 1 bytes."""
    late = LENGTH - CONTEXTS[-1]
    starts = range(LENGTH - late - context, LENGTH - context, context)
    pieces = torch.stack([text[:, start : start + 2 * context] for start in starts], dim=1)  # (B, pieces, 2 context)
    return _late_bits(model, pieces.flatten(0, 1)).view(len(text), -1).mean(dim=1)


def _late_bits(model: LanguageModel, pieces: Tensor) -> Tensor:
    """(B, N / 2) bits of the second half of each piece (B, N)."""
    half = pieces.shape[1] // 2
    scored = torch.arange(pieces.shape[1]) >= half
    at_once = max(1, 8 * LENGTH // pieces.shape[1])
    nats = [model.token_losses(some, scored=scored.expand_as(some))[0].view(len(some), half) for some in pieces.split(at_once)]
    return torch.cat(nats).double() / math.log(2)


@torch.no_grad()
def _stream_bits(model: LanguageModel, text: Tensor) -> Tensor:
    """(N - 1,) bits of each byte of a text (N,) but the first, the state carried on from piece to piece."""
    state, bits = model.init_state(1), []
    for start in range(0, len(text) - 1, PIECE):
        inputs, wanted = text[start : min(start + PIECE, len(text) - 1)], text[start + 1 : start + 1 + PIECE]
        logits, state = model.extend(inputs[None], state)
        bits.append(torch.nn.functional.cross_entropy(logits[0].double(), wanted, reduction="none") / math.log(2))
    return torch.cat(bits)


def _blocks(bits: Tensor, count: int, block: int) -> Tensor:
    """(blocks,) means of the first `count` bits."""
    return bits.flatten()[:count].view(-1, block).mean(dim=1)


def _leaks(setting: Setting, names: tuple[str, ...]) -> float:
    """The largest of these models."""
    tokens = _spread_windows(setting)[:2]
    return max(leak(trained(setting, name)[0], tokens) for name in names)


def _setup(setting: Setting, what: str) -> str:
    return (
        f"width 96, 2 layers of 3 heads, half of the channels shifted by a byte; {setting.scaled(STEPS, least=2):,} steps of "
        f"{BATCH} windows "
        f"of {LENGTH} bytes of the standard library; {what}"
    )
