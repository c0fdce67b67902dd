"""A length cut into chunks, also one that an export leaves open."""

import torch
from torch import Tensor

from .tracing import is_open


def chunk_of(chunk: int, length: int) -> int:
    """Positions of a chunk: ``chunk`` at most, and no more than there are."""
    return chunk if is_open(length) else min(chunk, length)


def missing(length: int, chunk: int) -> int:
    """How many positions the last chunk lacks."""
    if is_open(length):  # two chunks at least: an export tells one from many
        return (length // chunk + 2) * chunk - length
    return -length % chunk


def cut(x: Tensor, chunk: int, *, dim: int = -2) -> Tensor:
    """(..., N, .) as (..., G, C, .), for N that is a multiple of C = ``chunk``."""
    if is_open(x.shape[dim]):  # of which a view cannot tell whether it can be divided
        return x.unfold(dim, chunk, chunk) if dim == -1 else x.unfold(dim, chunk, chunk).transpose(-1, dim)
    return x.unflatten(dim, (-1, chunk))


def repeat_last(x: Tensor, count: int) -> Tensor:
    """(..., N) with its last number ``count`` times more."""
    if not is_open(count) and not count:
        return x
    return torch.cat((x, x[..., -1:].expand(*x.shape[:-1], count)), dim=-1)


def running_totals(added: Tensor, kept: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """What a recurrence over an open number of chunks has before each of them, and after the last: total' = kept total + added.

    Args:
        added: (B, H, G, ...).
        kept: (B, H, G, ...), which broadcasts to it.
        start: (B, H, ...).

    Returns:
        (B, H, G, ...) and (B, H, ...).
    """
    from torch._higher_order_ops.scan import scan  # not at import: it loads what compilers are made of

    def step(total: Tensor, chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        more, share = chunk
        return share * total + more, total.clone()

    last, before = scan(step, start, (added.movedim(2, 0), kept.movedim(2, 0)))
    return before.movedim(0, 2), last
