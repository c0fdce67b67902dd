"""Reading what a model of transformers hands to an attention function as its mask.

Axes: B batch, H heads, N length (queries), S length (keys).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...core.tracing import may_look
from .refusals import refuse
from .sight import Flags, Sight, decode, has, is_sight


def sight_of(
    name: str, module: nn.Module, queries: Tensor, keys: Tensor, mask: Tensor | None, is_causal: bool | None, keywords: dict[str, Any]
) -> Sight:
    """Who may see whom.

    Args:
        name: the implementation, for errors.
        module: the attention module.
        queries, keys: (B, H, N, K), (B, H, S, K).
        mask: what our mask function made; or, of models that make their own and of users, (B, S), or (B, 1 or H, 1 or N, S) bool or float
            that says no more than padding and causality; or None.
        is_causal: overrules the module's attribute of that name, which holds otherwise; both hold where ``mask`` does not say.
        keywords: the others, of which ``sliding_window``, ``position_ids`` and ``cu_seq_lens_q`` are read.

    Raises:
        NotImplementedError: for a mask that says anything else, and where the filled part of a cache is unknown.
    """
    batch, length, stretch = queries.shape[0], queries.shape[2], keys.shape[2]
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if mask is None:
        if causal and length != stretch:
            raise refuse(name, module, f"has {length} queries for {stretch} keys and no mask that says which keys are filled")
        sight = Sight(causal=causal and length > 1)
    elif is_sight(mask, stretch):
        sight = decode(mask, _own_window(name, module, mask, keywords) if has(mask, Flags.WINDOW) else None)
    elif mask.dim() == 2 and mask.shape[-1] == stretch:
        sight = Sight(causal=causal and length > 1, real=_real(mask))
    elif mask.dim() == 4 and mask.shape[-1] == stretch and mask.shape[-2] in (1, length):
        sight = _of_four_axes(name, module, length, mask)
    else:
        ours = is_sight(mask, mask.shape[-1] - 1)
        size = f"{mask.shape[-1] - 1} tokens" if ours else f"{tuple(mask.shape)}"
        raise refuse(name, module, f"is given a mask of {size} for {length} queries and {stretch} keys")
    if sight.real is not None and sight.real.shape[0] != batch:
        sight = Sight(sight.causal, sight.window, sight.real.expand(batch, -1), sight.documents, sight.start)
    return _with_documents(name, module, sight, batch, length, stretch, keywords)


def _own_window(name: str, module: nn.Module, mask: Tensor, keywords: dict[str, Any]) -> int:
    """The sliding window of a layer whose mask has one, as a distance that is not reached."""
    window = getattr(getattr(module, "config", None), "sliding_window", None)
    if window is None:
        window = keywords.get("sliding_window")
    elif not has(mask, Flags.CAUSAL):
        window += 1  # transformers counts a bidirectional window inclusively
    if window is None:
        raise refuse(name, module, "has a mask with a sliding window whose size it does not say")
    return int(window)


def _real(mask: Tensor) -> Tensor | None:
    real = mask > 0 if mask.dtype is not torch.bool else mask
    return None if may_look(real) and bool(real.all()) else real


def _of_four_axes(name: str, module: nn.Module, length: int, mask: Tensor) -> Sight:
    if not may_look(mask):
        raise refuse(name, module, f"is given a mask of {tuple(mask.shape)}, which cannot be looked at while compiling")
    if mask.dtype is torch.bool:
        seen = mask
    else:
        seen = mask == 0
        if not mask.is_floating_point() or bool((~seen & (mask > torch.finfo(mask.dtype).min / 2)).any()):
            raise refuse(name, module, f"is given a mask of {tuple(mask.shape)} that adds a bias to the scores")
    if bool((seen != seen[:, :1]).any()):
        raise refuse(name, module, "is given a mask that differs between heads")
    seen = seen[:, 0]  # (B, 1 or N, S)
    stretch = seen.shape[-1]
    real = seen.any(dim=1)
    past = stretch - length
    if seen.shape[1] == 1 or length == 1:
        return Sight(causal=False, real=_real(real))
    asks = real[:, past:, None] if past >= 0 else torch.ones_like(seen[..., :1])  # what a padded query sees does not matter
    everything = real[:, None].expand_as(seen)
    for causal, pattern in ((False, everything), (True, everything.tril(past))):
        if not bool(((seen != pattern) & asks).any()):
            return Sight(causal=causal, real=_real(real))
    raise refuse(name, module, f"is given a mask of {tuple(mask.shape)} that is neither padding nor causal")


def _with_documents(
    name: str, module: nn.Module, sight: Sight, batch: int, length: int, stretch: int, keywords: dict[str, Any]
) -> Sight:
    """Packed documents that the mask does not know of, from bounds or positions that the model passes on."""
    bounds, positions = keywords.get("cu_seq_lens_q"), keywords.get("position_ids")
    if sight.documents is not None or length != stretch or length == 1:
        return sight
    if bounds is not None:
        if batch != 1:
            raise refuse(name, module, f"is given cu_seq_lens_q for a batch of {batch} rows instead of one")
        places = torch.arange(length, device=bounds.device)
        documents = torch.searchsorted(bounds[1:].contiguous(), places, right=True)[None].to(torch.int32) + 1
    elif sight.causal and sight.real is None and positions is not None and positions.dim() == 2 and positions.shape[-1] == length:
        if not may_look(positions):  # the mask has found the documents where transformers looks for them
            return sight
        documents = torch.nn.functional.pad((positions.diff(dim=-1) != 1).int().cumsum(dim=-1) + 1, (1, 0), value=1).expand(batch, -1)
        if bool((documents[:, -1] == 1).all()):
            return sight
    else:
        return sight
    return Sight(sight.causal, sight.window, sight.real, documents, sight.start)
