"""One side of a case, ready to be called: what it does, how much of it, and whether it is right.

Axes: B batch, N length, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention.low_rank.projection import SlotProjection
from ..core.state import State
from ..layers.linear.int8 import Int8Embedding, Int8Weight
from .cases import Case

CHECKED = 160  # tokens of a check: more than a chunk of any mechanism
EXACT, ROUGH = 1e-3, 5e-2  # RMS of a difference over RMS: of float32, and of shorter numbers
NEW_TOKENS = 64  # decoded in one call
PIECE = 2048  # tokens of a context that are read together


class NotAvailable(Exception):
    """A side that cannot be had here: a package that is not installed, a device that is missing."""


class TooSlow(Exception):
    """A side that would take longer than the case allows."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and in which numbers everything runs, and whether freed memory is kept for the next call."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    keep_memory: bool = False

    @property
    def tolerance(self) -> float:
        return EXACT if self.dtype in (torch.float32, torch.float64) else ROUGH


@dataclass(frozen=True, kw_only=True)
class Work:
    """A side of a case.

    Attributes:
        call: what is measured.
        tokens: that one call goes through.
        check: None, or what is wrong with the side.
        parameter_bytes: of its weights; where it decodes, of those that a token reads.
        state_bytes: carried from token to token, where it decodes.
    """

    call: Callable[[], object]
    tokens: int
    check: Callable[[], str | None]
    parameter_bytes: int = 0
    state_bytes: int = 0


def bytes_of(model: nn.Module) -> int:
    in_8_bits = [tensor for module in model.modules() if isinstance(module, Int8Weight) for tensor in module.buffers()]
    return sum(tensor.nbytes for tensor in (*model.parameters(), *in_8_bits))


def bytes_read_by_a_token(model: nn.Module) -> int:
    """Of the weights, less the tables of which a token reads one row: the embedding, and what positions weigh in a Linformer's slots."""
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding | Int8Embedding | SlotProjection))
    return bytes_of(model) - sum(bytes_of(table) for table in tables)


def make_tokens(case: Case, setting: Setting, length: int | None = None) -> Tensor:
    """(B, N) bytes of no meaning, the same for every side."""
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, case.length if length is None else length)
    return torch.randint(case.sizes.vocabulary, shape, generator=generator).to(setting.device)


def bidirectional_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy of every token at its own place."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward, with fresh gradients; no optimizer."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    return step


def without_gradients(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def read_context(model: Any, tokens: Tensor, state: State, *, limit: float, clock: Callable[[], float]) -> State:
    """The state after `tokens`, read in pieces.

    Raises:
        TooSlow: at the pace of the pieces so far, or with each costing more than the one before, it would take over `limit` seconds.
    """
    began, read = clock(), 0
    with torch.no_grad():
        for piece in tokens.split(PIECE, dim=1):
            _, state = model.extend(piece, state, last_only=True)
            read += piece.shape[1]
            if (clock() - began) * tokens.shape[1] / read > limit and read < tokens.shape[1]:
                raise TooSlow(f"reading {tokens.shape[1]:,} tokens before the first would take more than {limit:.0f} s")
    return state


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """RMS of the difference over RMS."""
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-30))
