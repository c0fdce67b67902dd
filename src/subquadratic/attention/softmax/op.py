"""Exact softmax attention through PyTorch's fused kernels, safe where a query has no key.

PyTorch's kernel takes no mask but the square causal one. Other regular patterns are cut into parts that need none, or a small one: each
part gives its output and the logarithm of its normaliser, and parts merge by these (as in ring attention, arXiv 2310.01889). No mask of
N x S, and no copy of keys, exists then. For CPUs, where the kernel that gives the normaliser can be called by itself.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

import threading
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from ...core.backend import is_traced, takes_native
from ...core.causality import keep_out
from ...core.layout import dense_channels
from ...core.numerics import exact_dtype, no_autocast
from ...core.tracing import in_one_call, needs_gradient
from ...kernels.derivatives import differentiable, is_transformed, keep, kept

FEWEST = 16  # queries from which the C kernels, which take them side by side, are worth calling
LARGE_MASK = 2**18  # pairs: below, one call with a mask costs less than two without


def softmax_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, allowed: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v.

    Args:
        queries: (B, H, N, K).
        keys, values: (B, H, S, K).
        allowed: bool, broadcastable to (B, H, N, S), True = may attend; None = everything.
        causal: position i of N sees keys up to S - N + i. Not together with ``allowed``: a caller that needs both builds one mask.
        dropout: probability of dropping a weight; pass 0 outside training.

    Returns:
        (B, H, N, K) in the dtype of ``values``; zeros (and zero gradients) for a query that may attend to nothing.

    Raises:
        ValueError: if ``allowed`` and ``causal`` are both given.
    """
    if allowed is not None and causal:
        raise ValueError("allowed and causal=True exclude each other: put causality into allowed")
    if causal and dropout == 0.0 and queries.dim() == 4:
        output = _attend(queries, keys, values, None, True, dropout)
        return keep_out(lambda q, k, v: _attend(q, k, v, None, True, dropout), (queries, keys, values), output)
    return _attend(queries, keys, values, allowed, causal, dropout)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float) -> Tensor:
    length, past = queries.shape[-2], keys.shape[-2] - queries.shape[-2]
    if allowed is None and dropout == 0.0 and length >= FEWEST and (past >= 0 or not causal) and _for_kernel(queries, keys, values):
        from .native import NativeSoftmaxAttention

        return NativeSoftmaxAttention.apply(queries, keys, values, causal)
    if is_transformed():
        return _by_formula(queries, keys, values, allowed, causal, dropout)
    if causal and past:
        if length == 1:
            causal = False  # the last one sees everything
        elif past > 0 and length * keys.shape[-2] >= LARGE_MASK and in_parts(queries, keys, values, dropout):
            return _after_past(queries, keys, values, past)
        else:
            allowed, causal = bottom_right_causal(length, keys.shape[-2], queries.device), False
    if allowed is None:
        return _fused(queries, keys, values, None, causal, dropout)
    some = allowed.any(dim=-1, keepdim=True)
    return torch.where(some, _fused(queries, keys, values, allowed | ~some, False, dropout), 0.0)


def _by_formula(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float = 0.0
) -> Tensor:
    """The definition, by operators that have every kind of derivative; a query with no key gives zeros."""
    exact, length, past = exact_dtype(queries, values), queries.shape[-2], keys.shape[-2]
    with no_autocast(values):
        scores = (queries * queries.shape[-1] ** -0.5).to(exact) @ keys.to(exact).mT
        if causal:
            allowed = bottom_right_causal(length, past, queries.device)
        if allowed is None:
            return _drop(scores.softmax(dim=-1), dropout).to(values.dtype) @ values
        some = allowed.any(dim=-1, keepdim=True)
        weights = scores.masked_fill(~(allowed | ~some), -torch.inf).softmax(dim=-1)
        return torch.where(some, _drop(weights, dropout).to(values.dtype) @ values, 0.0)


def _drop(weights: Tensor, dropout: float) -> Tensor:
    return F.dropout(weights, dropout) if dropout > 0.0 else weights


def _fused(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """PyTorch's own. The kernel that it takes on a CPU has one derivative: here it gets the others."""
    if (
        queries.device.type == "cpu"
        and needs_gradient(queries, keys, values)
        and (not torch.is_autocast_enabled("cpu") or queries.dtype is torch.get_autocast_dtype("cpu"))
        and in_parts(queries, keys, values, dropout)
        and torch._fused_sdp_choice(queries, keys, values, allowed, dropout, causal) == SDPBackend.FLASH_ATTENTION.value
    ):
        return _Fused.apply(queries, keys, values, allowed, causal)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, is_causal=causal, dropout_p=dropout)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool) -> Tensor:
        rows = (dense_channels(x) for x in (queries, keys, values))
        output, normaliser = part(*rows, causal=causal, bias=_as_bias(allowed, queries))
        keep(ctx, (queries, keys, values, allowed, causal), output, normaliser)
        return output

    @staticmethod
    @differentiable(_by_formula)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (*given, allowed, causal), known = kept(ctx)
        rows = (dense_channels(x) for x in (gradient, *given))
        return *part_gradients(*rows, *known, causal=causal, bias=_as_bias(allowed, given[0])), None, None


def _as_bias(allowed: Tensor | None, like: Tensor) -> Tensor | None:
    return None if allowed is None else torch.zeros_like(allowed, dtype=like.dtype).masked_fill_(~allowed, -torch.inf)


def _for_kernel(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    same = queries.dtype == keys.dtype == values.dtype and keys.shape[:2] == values.shape[:2] == queries.shape[:2]
    fits = keys.shape[-1] == queries.shape[-1] and keys.shape[:-1] == values.shape[:-1]  # else PyTorch says what does not
    return same and fits and queries.dim() == 4 and queries.numel() > 0 and values.numel() > 0 and takes_native(None, values)


def bottom_right_causal(length: int, keys: int, device: torch.device) -> Tensor:
    """(N, S) bool: query i, counted from the end, sees keys up to its own."""
    return torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)


def in_parts(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> bool:
    """Whether attention of these may be computed in parts: on a CPU, in eager mode, without dropout (whose weights no part knows)."""
    return (
        queries.device.type == "cpu"
        and dropout == 0
        and queries.dtype == keys.dtype == values.dtype
        and queries.numel() > 0
        and keys.shape == values.shape
        and not is_traced()
        and not torch.jit.is_tracing()  # whose graphs hold no backward written by hand
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    )


def part(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys: the output (B, H, N, K) and the logarithm of its normaliser (B, H, N); not for autograd.

    Args:
        queries, keys, values: (B, H, N, K) and (B, H, S, K), channels of a head next to each other.
        causal: as in PyTorch: query i sees keys up to i.
        bias: added to the logits, broadcastable to (B, 1, N, S).
    """
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, 0.0, causal, attn_mask=bias)


def merge_(output: Tensor, normaliser: Tensor, other: Tensor, other_normaliser: Tensor) -> None:
    """Make of the first part both parts together, in place."""
    share = torch.sigmoid(other_normaliser - normaliser).to(output.dtype)
    torch.logaddexp(normaliser, other_normaliser, out=normaliser)
    output.lerp_(other, share[..., None])


def part_gradients(
    gradient: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    normaliser: Tensor,
    *,
    causal: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a part adds to the gradients of its queries, keys and values, from the output and normaliser of all parts together."""
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(gradient, queries, keys, values, output, normaliser, 0.0, causal, attn_mask=bias)


class _Room:
    """Places to spare at the end of an axis of a storage, and how many are taken: only who takes the next ones may write there."""

    def __init__(self, whole: Tensor, dim: int, taken: int):
        self.shape, self.strides, self._dim, self._taken = whole.shape, whole.stride(), dim, taken
        self._lock = threading.Lock()

    def takes(self, start: int, stop: int) -> bool:
        """Whether places ``start`` to ``stop`` were free, and are now the caller's."""
        with self._lock:
            free = self._taken == start and stop <= self.shape[self._dim]
            self._taken = stop if free else self._taken
        return free


class _Rooms:
    """The room of each tensor that `append` gave, and where the tensor begins there, for as long as the tensor lives.

    Not a dictionary with weak keys: their callbacks are Python code, and a Ctrl-C that arrives in one is swallowed. Entries of tensors that
    are gone hold no storage, and are looked for when their number may have doubled.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], _Room, int]] = {}
        self._limit = 256

    def find(self, tensor: Tensor) -> tuple[_Room | None, int]:
        entry = self._entries.get(id(tensor))
        return (None, 0) if entry is None or entry[0]() is not tensor else entry[1:]

    def keep(self, tensor: Tensor, room: _Room, start: int) -> None:
        self._entries[id(tensor)] = (weakref.ref(tensor), room, start)
        if len(self._entries) > self._limit:
            for key, entry in list(self._entries.items()):
                if entry[0]() is None and self._entries.get(key) is entry:
                    self._entries.pop(key, None)
            self._limit = max(256, 2 * len(self._entries))


_ROOMS = _Rooms()


@in_one_call
def append(past: Tensor, new: Tensor, *, drop: int = 0, dim: int = 2) -> Tensor:
    """``past`` and ``new`` one after the other, without the first ``drop`` of ``past``.

    Copies ``past`` only now and then, if it came from here: what is appended goes into spare places behind it. ``past`` itself never
    changes, and of several that go on from one ``past`` the first takes the places, the others begin a copy. With gradients, or where
    operations are traced, simply ``torch.cat``.

    Args:
        past: (..., S, ...).
        new: (..., N, ...).
        drop: at most S.
        dim: the axis of S and N.

    Returns:
        (..., S - drop + N, ...) in the dtype of ``new``.
    """
    length, added = past.shape[dim], new.shape[dim]
    if past.dtype != new.dtype or type(new) is not Tensor or torch.is_grad_enabled() or is_traced():
        return torch.cat((past.narrow(dim, drop, length - drop).to(new.dtype), new), dim=dim)
    room, start = _ROOMS.find(past)
    stop = start + length
    writable = past.is_inference() == torch.is_inference_mode_enabled()  # tensors of inference mode may not be written from outside
    if room is not None and writable and room.takes(stop, stop + added):
        whole = past.as_strided(room.shape, room.strides, 0)
        start += drop
    else:
        start, stop = 0, length - drop
        spare = max(stop // 2, 64) if added == 1 else 0  # single tokens come in numbers
        shape = list(past.shape)
        shape[dim] = stop + added + spare
        whole = new.new_empty(shape)
        room = _Room(whole, dim, stop + added)
        whole.narrow(dim, 0, stop).copy_(past.narrow(dim, drop, length - drop))
    whole.narrow(dim, stop, added).copy_(new)
    grown = whole.narrow(dim, start, stop + added - start)
    _ROOMS.keep(grown, room, start)
    return grown


def _after_past(queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
    """Causal attention whose first query stands ``past`` keys after the first key."""
    if needs_gradient(queries, keys, values):
        return _AfterPast.apply(queries, keys, values, past)
    return _two_parts(dense_channels(queries), dense_channels(keys), dense_channels(values), past)[0]


def _two_parts(queries: Tensor, keys: Tensor, values: Tensor, past: int) -> tuple[Tensor, Tensor]:
    output, normaliser = part(queries, keys[..., past:, :], values[..., past:, :], causal=True)
    merge_(output, normaliser, *part(queries, keys[..., :past, :], values[..., :past, :]))
    return output, normaliser


class _AfterPast(torch.autograd.Function):
    """The past without a mask, and the square after it."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
        output, normaliser = _two_parts(dense_channels(queries), dense_channels(keys), dense_channels(values), past)
        keep(ctx, (queries, keys, values, past), output, normaliser)
        return output

    @staticmethod
    @differentiable(lambda queries, keys, values, past: _by_formula(queries, keys, values, None, True))
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (*given, past), known = kept(ctx)
        gradient, queries, keys, values = (dense_channels(x) for x in (gradient, *given))
        d_queries, *here = part_gradients(gradient, queries, keys[..., past:, :], values[..., past:, :], *known, causal=True)
        more, *before = part_gradients(gradient, queries, keys[..., :past, :], values[..., :past, :], *known)
        d_keys, d_values = (torch.cat(both, dim=-2) for both in zip(before, here, strict=True))
        return d_queries.add_(more), d_keys, d_values, None


def softmax_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """The definition, in the open. The oracle of the tests."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1).nan_to_num(0.0) @ values
