"""How the first law is tried: a sequence through a model at once, and in pieces of any kind, one after another.

Axes: B batch, N length.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import subquadratic as sq
from subquadratic.core.backend import use_backend

from .matrix import LENGTH, SMALL, configs, heads, inputs, tokens

VOCABULARY = 13
ROWS = 3


@dataclass(frozen=True)
class Piece:
    """So many tokens that come together, and whether autograd is on meanwhile."""

    size: int
    gradients: bool = False


@dataclass
class Streamed:
    """A model in the form in which the law is the same for all of them."""

    model: Any
    whole: Callable[[Tensor | None], Tensor]
    begin: Callable[[], Any]
    extend: Callable[[slice, Any, Tensor | None], tuple[Tensor, Any]]
    pooled: bool = False  # one output for all that was read, instead of one a position


def plans(length: int) -> st.SearchStrategy[list[Piece]]:
    """Pieces that make up ``length`` tokens: half of them single, runs of single ones between longer pieces."""
    sizes = st.one_of(st.just(1), st.integers(1, 9))
    pieces = st.lists(st.tuples(sizes, st.booleans()), min_size=length, max_size=length)

    def cut(drawn: list[tuple[int, bool]]) -> list[Piece]:
        plan, left = [], length
        for size, gradients in drawn:
            if left:
                plan.append(Piece(min(size, left), gradients))
                left -= plan[-1].size
        return plan

    return pieces.map(cut)


def masks(length: int) -> st.SearchStrategy[Tensor | None]:
    """None, or (B, N) bool with padding anywhere: on either side, in holes, in whole rows."""
    row = st.one_of(
        st.just([True] * length),
        st.just([False] * length),
        st.integers(1, length - 1).map(lambda n: [False] * n + [True] * (length - n)),
        st.integers(1, length - 1).map(lambda n: [True] * n + [False] * (length - n)),
        st.lists(st.booleans(), min_size=length, max_size=length),
    )
    return st.one_of(st.none(), st.lists(row, min_size=ROWS, max_size=ROWS).map(torch.tensor))


def length_for(config: sq.BackboneConfig) -> int:
    """A Perceiver AR follows the law while its latents grow."""
    return min(LENGTH, getattr(config, "latents", LENGTH))


def causal_configs(*, cross: bool | None = None) -> list[Any]:
    """The matrix, and what only this law asks for: kernels that are no exponentials with every option that changes how they run.
    ``cross``: only those that can, or cannot, read a context."""
    more: list[tuple[str, sq.BackboneConfig]] = []
    for name, kernel in (("relu", "relu"), ("callable", F.softplus), ("signed", F.elu), ("efficient", "efficient"), ("softmax", "softmax")):
        performer = {**SMALL, "features": None if name == "efficient" else 12, "kernel": kernel}
        for label, options in (
            ("plain", {}),
            ("local_heads", {"local_heads": 1, "local_window": 4}),
            ("checkpointing", {"checkpointing": True}),
            ("reversible", {"reversible": True}),
            ("token_shift", {"token_shift": True, "qk_norm": True}),
            ("cross", {"cross_attention": True}),
        ):
            more.append((f"performer-{name}-{label}", sq.PerformerConfig(**performer, **options)))
    more += [
        ("transformer-cross", sq.TransformerConfig(**SMALL, cross_attention=True)),
        ("feedback-cross", sq.FeedbackTransformerConfig(**SMALL, memory_length=7, cross_attention=True)),
        ("performer-cross-reversible", sq.PerformerConfig(**SMALL, features=12, cross_attention=True, reversible=True)),
    ]
    found = [*configs(causal=True), *(pytest.param(config, id=label) for label, config in more)]
    return [param for param in found if cross is None or getattr(param.values[0], "cross_attention", False) == cross]


def built(head: str, config: sq.BackboneConfig, dtype: torch.dtype) -> Streamed:
    """A head on a configuration, with the inputs that it is tried on."""
    torch.manual_seed(0)
    length = length_for(config)
    x: Any = tokens(ROWS, length, vocabulary=VOCABULARY)
    if head == "encoder_decoder":
        encoder = sq.TransformerConfig(**SMALL, causal=False)
        model: Any = made(sq.EncoderDecoder(encoder, config, vocab_size=VOCABULARY, max_length=40), dtype)
        source, source_mask = tokens(ROWS, 6, vocabulary=VOCABULARY, seed=2), torch.ones(ROWS, 6, dtype=torch.bool)
        source_mask[0, 4:] = False
        return Streamed(
            model,
            lambda mask: model(source, x, source_mask=source_mask, target_mask=mask),
            lambda: model.init_state(source=source, source_mask=source_mask),
            lambda here, state, mask: model.extend(x[:, here], state, mask=mask),
        )
    model = made(heads(config)[head](), dtype)
    x = inputs(ROWS, length, config.dim, dtype=dtype) if head == "backbone" else x
    return Streamed(
        model,
        lambda mask: model(x, mask=mask),
        lambda: model.init_state(ROWS),
        lambda here, state, mask: model.extend(x[:, here], state, mask=mask),
        pooled=head == "classifier",
    )


def made(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In eval mode and a dtype, with weights that are not near their initial zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.to(dtype).eval()


def check_law(
    case: Streamed,
    config: sq.BackboneConfig,
    plan: Sequence[Piece],
    mask: Tensor | None,
    *,
    tolerance: float,
    backend: str | None = None,
) -> None:
    """What comes out piece by piece is what comes out at once."""
    with context_of(backend):
        whole = case.whole(mask).detach()
        state, parts, at = case.begin(), [], 0
        for piece in plan:
            here = slice(at, at + piece.size)
            with torch.set_grad_enabled(piece.gradients):
                y, state = case.extend(here, state, None if mask is None else mask[:, here])
            parts.append(y.detach())
            at += piece.size
    if case.pooled:
        assert_near(parts[-1], whole, tolerance)
        return
    streamed = torch.cat(parts, dim=1)
    if mask is None:
        assert_near(streamed, whole, tolerance)
        return
    if config.aligned_right:  # the last outputs of a piece belong to its real tokens
        for row in range(ROWS):
            real, count = [int(part.sum()) for part in mask[row].split([piece.size for piece in plan])], int(mask[row].sum())
            shown = torch.cat([part[row, part.shape[1] - number :] for part, number in zip(parts, real, strict=True)])
            assert_near(shown, whole[row, whole.shape[1] - count :], tolerance)
        return
    assert_near(streamed[mask], whole[mask], tolerance)
    assert not whole[~mask].any() and not streamed[~mask].any()


def assert_near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """RMS(found - wanted) / RMS(wanted) within the tolerance, and no entry far off."""
    error = (found.double() - wanted.double()).abs()
    scale = wanted.double().square().mean().sqrt().clamp_min(1e-12) if wanted.numel() else torch.ones(())
    worst = float(error.max() / scale) if error.numel() else 0.0
    assert worst <= tolerance, f"off by {worst:.1e} of the root mean square, {tolerance:.1e} allowed"


def context_of(backend: str | None) -> AbstractContextManager[None]:
    """The backend for a while."""
    return nullcontext() if backend is None else use_backend(backend)
