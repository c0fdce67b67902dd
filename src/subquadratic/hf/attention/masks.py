"""The mask function of our implementations, which transformers calls once per forward in place of making an (N, S) mask.

transformers describes a mask by a function of indices. What it consists of is known by name; whatever is not is refused, since
attention of linear cost cannot follow an arbitrary pattern.

Axes: B batch, N length (queries), S length (keys).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import masking_utils

from ...core.tracing import may_look
from .callers import refuse_by_config, refuse_full_encoder
from .sight import Flags, encode

PARTS = {
    masking_utils.causal_mask_function.__qualname__: Flags.CAUSAL,
    masking_utils.bidirectional_mask_function.__qualname__: Flags(0),
    "sliding_window_overlay": Flags.WINDOW,
    "sliding_window_bidirectional_overlay": Flags.WINDOW,
    "packed_sequence_mask_function": Flags.PACKED,
    "padding_mask_function": Flags.PADDED,
}


def sight_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    *,
    local_size: int | None = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool | None = None,
    config: Any = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor:
    """Who may see whom, as `sight.encode` writes it, with the arguments of every mask function of transformers.

    Raises:
        ValueError: for a mask of the user that has not two axes; one of four does not come here.
        NotImplementedError: for a pattern other than bidirectional, causal, within a sliding window, or within packed documents.
    """
    if config is not None and not torch.compiler.is_compiling():
        refuse_by_config(config)
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(f"attention_mask must be (batch, tokens), or have four axes, got {tuple(attention_mask.shape)}")
    if use_vmap:
        raise NotImplementedError(_refusal("a pattern of its own (or_mask_function, and_mask_function)"))
    if torch.compiler.is_compiling():  # which cannot look into a closure
        packed = attention_mask is None and q_length == kv_length  # only there does transformers look for documents
        flags = _flags_by_name(mask_function, local_size, config, causal=allow_is_bidirectional_skip is None, packed=packed)
    else:
        flags = _flags(mask_function, config)
    if Flags.CAUSAL not in flags:
        refuse_full_encoder(config, q_length, kv_length)
    keys = torch.arange(kv_length, device=device)
    positions = keys + (kv_offset - q_offset)
    documents = torch.ones(batch_size, kv_length, dtype=torch.int32, device=device)
    if Flags.PACKED in flags:
        rows = torch.arange(batch_size, device=device)[:, None]
        heads = torch.zeros_like(rows)
        goes_on = mask_function(rows, heads, keys[None, 1:], keys[None, :-1])
        documents = F.pad((~goes_on).int().cumsum(dim=-1) + 1, (1, 0), value=1)
    if attention_mask is not None:
        real = _fitting(attention_mask.to(device=device, dtype=torch.bool), kv_length, kv_offset)
        if not may_look(real) or not bool(real.all()):
            flags |= Flags.PADDED
            if Flags.WINDOW in flags and may_look(real) and bool(((real[:, 1:] & ~real[:, :-1]).sum(dim=1) + real[:, 0] > 1).any()):
                raise NotImplementedError(
                    f"the mask has padding between tokens, over which the model's sliding window of {local_size} would reach: "
                    f"pad on the left or right, or {_USE_SDPA}"
                )
            documents = documents * real
    filled = isinstance(q_offset, int) and isinstance(kv_offset, int) and kv_offset + kv_length == q_offset + q_length
    if Flags.CAUSAL in flags and not filled:
        flags |= Flags.STATIC
        documents = documents * (positions < q_length)
    return encode(flags, documents, positions)


def _fitting(mask: Tensor, length: int, offset: int | Tensor) -> Tensor:
    """The part of a (B, seen) mask that S = ``length`` keys from ``offset`` on need; keys beyond its end are not there yet."""
    if isinstance(offset, int):
        return F.pad(mask, (0, max(0, offset + length - mask.shape[1])))[:, offset : offset + length]
    places = torch.arange(length, device=mask.device) + offset
    return mask.gather(1, places.clamp_max(mask.shape[1] - 1).expand(len(mask), -1)) & (places < mask.shape[1])


def _flags(function: Callable[..., Any], config: Any) -> Flags:
    flags = Flags(0)
    for name, window in _parts(function):
        if name not in PARTS:
            raise NotImplementedError(_refusal(f"the pattern {name}"))
        flags |= PARTS[name]
        configured = getattr(config, "sliding_window", None)
        if window is not None and window != configured:
            raise NotImplementedError(f"the mask has a sliding window of {window}, the configuration one of {configured}: {_USE_SDPA}")
    return flags


def _flags_by_name(function: Callable[..., Any], local_size: int | None, config: Any, *, causal: bool, packed: bool) -> Flags:
    """As transformers 5 makes them; windows and documents come together in one closure, which may hold either or both."""
    if function is masking_utils.bidirectional_mask_function:
        return Flags(0)
    if function is masking_utils.causal_mask_function:
        return Flags.CAUSAL
    if not function.__qualname__.startswith("and_masks"):
        raise NotImplementedError(_refusal("a union of patterns"))
    if local_size is not None and getattr(config, "attention_chunk_size", None) == local_size:
        raise NotImplementedError(_refusal("the pattern chunked_overlay"))
    flags = Flags(0) if local_size is None else Flags.WINDOW
    return (flags | Flags.CAUSAL | (Flags.PACKED if packed else Flags(0))) if causal else flags


def _parts(function: Callable[..., Any]) -> Iterator[tuple[str, int | None]]:
    """The names of what a mask function consists of, and the window of those that have one."""
    name = function.__qualname__.partition(".")[0]
    held = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True))
    if name == "and_masks":
        for part in held["mask_functions"]:
            yield from _parts(part)
    elif name == "remap_positions_for_packed_sequence":
        yield from _parts(held["mask_function"])
    else:
        yield name, held.get("sliding_window")


_USE_SDPA = 'load this model with attn_implementation="sdpa"'


def _refusal(what: str) -> str:
    return f"the model masks its attention by {what}, which attention of linear cost cannot follow: {_USE_SDPA}"
