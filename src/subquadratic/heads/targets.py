"""Which tokens are to be predicted, from which outputs of a backbone.

Axes: B batch, N length, D width.
"""

import torch
from torch import Tensor

from ..core.errors import check_mask, require
from ..core.padding import count_real, pack_left
from ..core.tracing import may_look
from ..models.config import BackboneConfig
from .cross_entropy import IGNORE
from .embedding import check_tokens


def next_tokens(tokens: Tensor, wanted: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs (B, N - 1), targets (B, N - 1) and mask of the inputs, for next-token prediction; ``wanted`` (B, N) are the tokens as targets.
    Rows are packed to the left if there is a mask."""
    if mask is not None:
        order, mask = pack_left(mask)
        tokens, wanted = tokens.gather(1, order), wanted.gather(1, order)
        mask = mask[:, 1:]  # an input counts if the token after it is real
    return tokens[:, :-1], wanted[:, 1:], mask


def predicted(tokens: Tensor, mask: Tensor | None, scored: Tensor | None, vocab_size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs and targets of a causal model, (B, N - 1) each, targets -100 where ``scored`` is False, and the mask of the inputs.

    Raises:
        ValueError: for wrong shapes, fewer than two tokens, or a last token out of range.
    """
    check_mask(scored, tokens.shape[0], tokens.shape[-1], name="scored")
    require(tokens.dim() == 2 and tokens.shape[1] >= 2, f"tokens must be (batch, length) with length at least 2, got {tuple(tokens.shape)}")
    if may_look(tokens) and (mask is None or may_look(mask)):
        last = tokens[:, -1:] if mask is None else tokens.masked_fill(~mask, 0)
        check_tokens(last, vocab_size)  # the last one of each row is predicted and never embedded
    return next_tokens(tokens, tokens if scored is None else tokens.masked_fill(~scored, IGNORE), mask)


def align_targets(targets: Tensor, mask: Tensor | None, length: int, config: BackboneConfig) -> Tensor:
    """Targets (B, N) of left-packed rows, for the ``length`` outputs of a backbone; the ones that do not count become -100."""
    if mask is not None:
        targets = targets.masked_fill(~mask, IGNORE)
    if not config.aligned_right or mask is None:
        return targets[:, -length:]
    places = mask.sum(dim=1, keepdim=True) - length + torch.arange(length, device=targets.device)
    return targets.gather(1, places.clamp_min(0)).masked_fill(places < 0, IGNORE)


def valid_outputs(mask: Tensor | None, length: int, config: BackboneConfig) -> Tensor | None:
    """(B, length) bool: which of a backbone's ``length`` outputs belong to real tokens; None: all."""
    if mask is None or not config.aligned_right:
        return mask
    return torch.arange(length, device=mask.device) >= length - mask.sum(dim=1, keepdim=True)


def last_outputs(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The last real output of each row, (B, 1, D), and whether there is one, (B, 1)."""
    if valid is None:
        return x[:, -1:], None
    places = torch.arange(valid.shape[1], device=x.device)
    last = torch.where(valid, places, 0).amax(dim=1)
    return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1])), valid.any(dim=1, keepdim=True)


def choose_masked(tokens: Tensor, mask: Tensor | None, probability: float, generator: torch.Generator | None) -> Tensor:
    """(B, N) bool: a random ``probability`` share of each row's real tokens, rounded, one at least."""
    require(0 <= probability <= 1, f"mask_probability must be at least 0 and at most 1, got {probability!r}")
    scores = torch.rand(tokens.shape, device=tokens.device, generator=generator)
    if mask is not None:
        scores = scores.masked_fill(~mask, 2.0)  # after every real token
    wanted = masked_share(count_real(mask, tokens.shape[0], tokens.shape[1], tokens.device), probability)
    return scores.argsort(dim=1).argsort(dim=1) < wanted[:, None]


def masked_share(count: Tensor, probability: float) -> Tensor:
    """How many of ``count`` tokens are hidden, (B,) each: none where there are none."""
    return torch.minimum((count * probability).round().long().clamp_min(1), count)


def both_masks(mask: Tensor | None, scored: Tensor | None) -> Tensor | None:
    """(B, N) bool: where both are True, of which None is True everywhere."""
    if mask is None or scored is None:
        return scored if mask is None else mask
    return mask & scored
