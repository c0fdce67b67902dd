"""Whether a causal model reads what it is to predict: later tokens are changed once, and its earlier outputs have to stay.

Outputs are compared with those of the same call repeated, and up to rounding: kernels may share a maximum over all keys. Weights are
disturbed before, because a path that begins at zero, as residual branches often do, would show nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..heads.encoder_decoder import EncoderDecoder
from ..layers.modes import evaluating

ROWS = 2
NOISE = 0.02  # standard deviation of what is added to the weights
ROUNDING = 1e-3  # of how much outputs differ from each other
SEED = 1
LOGITS, SHORTEST = 1 << 25, 128  # most logits that are looked at, but of so many tokens at least


@torch.no_grad()
def check_causal(model: Any, *, name: str, vocab_size: int, length: int) -> None:
    """Raises ValueError where the logits of `model` at a position depend on tokens after it, or on other rows of the batch.

    Args:
        model: from tokens (B, N) to logits (B, N, V), or of the last positions alone, (B, M, V); or an `EncoderDecoder`. Left as it is.
        name: of the model, for the message.
        length: N, tokens in a window; of a long one with a large vocabulary its beginning.
    """
    length = min(length, max(SHORTEST, LOGITS // (ROWS * vocab_size)))
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(SEED)
    tokens, others = (torch.randint(vocab_size, (ROWS, length), generator=generator).to(device) for _ in range(2))
    others = torch.where(others == tokens, (others + 1) % vocab_size, others)
    with evaluating(model):
        disturbed = _disturbed(model)
        usual = _logits(disturbed, tokens)
        if not bool(usual.isfinite().all()):  # weights that take no noise
            disturbed = model
            usual = _logits(disturbed, tokens)
        allowed = ROUNDING * float(usual.float().std()) + 2 * _largest(_logits(disturbed, tokens) - usual)
        first = length - usual.shape[1]  # position of the first output
        cut = first + max(1, usual.shape[1] // 2)
        later = _logits(disturbed, torch.cat((tokens[:, :cut], others[:, cut:]), dim=1))
        if _largest((later - usual)[:, : cut - first]) > allowed:
            raise ValueError(
                f"{name} reads the future: with other tokens from position {cut} of {length} on, its logits at earlier positions change; "
                "a model that predicts the next token must not see it (is a causal mask missing?)"
            )
        row = _logits(disturbed, torch.cat((tokens[:1], others[1:])))
        if _largest((row - usual)[:1]) > allowed:
            raise ValueError(
                f"{name} reads other rows of its batch: with another text in the second row, its logits of the first one change "
                "(does a layer take the axes as (N, B) rather than (B, N)?)"
            )


def _disturbed(model: Any) -> Any:
    """A copy with noise in its weights; the model itself where it cannot be copied."""
    try:
        other = copy.deepcopy(model)
    except Exception:  # of somebody else's module
        return model
    generator = torch.Generator().manual_seed(SEED)
    for parameter in other.parameters():
        if parameter.is_floating_point():
            parameter += NOISE * torch.randn(parameter.shape, generator=generator).to(parameter)
    return other


def _logits(model: Any, tokens: Tensor) -> Tensor:
    torch.manual_seed(SEED)  # of a model that draws random numbers, the same
    source = (torch.zeros_like(tokens),) if isinstance(model, EncoderDecoder) else ()
    found: Tensor = model(*source, tokens)
    return found.float()


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
