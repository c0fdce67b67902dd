"""Additive attention: one global query and one global key instead of pairwise scores (Fastformer, arXiv 2108.09084), bidirectional and
causal.

Axes: B batch, N length, D width, H heads, K head width.
"""

from functools import partial

import torch
from torch import Tensor, nn

from ...core.backend import computed_by
from ...core.errors import NotCausalError, require, require_probability
from ...core.numerics import exact_dtype, no_autocast
from ...core.padding import checked, count_on, zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.linear.layer import Linear, fitting, map_exactly, maps_of
from ...layers.linear.op import linear
from ...layers.multi_head import head_width, merge_heads, position_turns, require_even, split_heads
from ...layers.rotary.op import complex_product, turn
from ...layers.streaming import Carry, Streaming, default_device
from ...layers.untouched import is_untouched
from . import native_mean, native_running
from .op import running_softmax_mean, softmax_mean
from .state import PoolState, empty_pool


@state
class AdditiveState(State):
    """The two running means of a causal layer. Its size does not depend on the length."""

    query_pool: PoolState
    key_pool: PoolState
    seen: Tensor  # (B,) int64, real tokens so far


class AdditiveAttention(Streaming):
    """Multi-head additive attention.

    With q, k, v the maps of x, per head: g_q = sum_i softmax_i(W_a q_i / sqrt(K)) q_i (eqs. 3-4); p_i = k_i * g_q; g_k = sum_i
        softmax_i(W_b p_i /
    sqrt(K)) p_i (eqs. 5-6); u_i = v_i * g_k; the output is W_u u + q, mapped back to D (eq. 7 and section 3.3). In the causal form both
    means run over the positions up to i.

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        causal: a position sees itself and what came before.
        share_query_value: v = q, the authors' default.
        rotary: products with a global vector become products of complex numbers, one factor conjugated, all turned by their rotary angle:
            the result then depends on distances between tokens only.
        tie_logit_vectors: W_a and W_b come from outside (arguments of each call), shared by all layers.
        dropout: of the output.
        qkv_bias, out_bias: biases of the maps.

    Raises:
        ValueError: for values out of range or an odd head width with ``rotary``.

    Cost O(N K) a head, and O(N C) causal with chunks of C. Streaming state: 2 H (K + 2) numbers, whatever the length.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        causal: bool = False,
        share_query_value: bool = True,
        rotary: bool = False,
        tie_logit_vectors: bool = False,
        dropout: float = 0.0,
        qkv_bias: bool = True,
        out_bias: bool = True,
    ):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        require_even(width, rotary)
        require_probability(dropout=dropout)
        inner = heads * width
        self.dim, self.heads, self.width, self.causal, self.rotary = dim, heads, width, causal, rotary
        self.query = Linear(dim, inner, bias=qkv_bias)
        self.key = Linear(dim, inner, bias=qkv_bias)
        self.value = None if share_query_value else Linear(dim, inner, bias=qkv_bias)
        self.query_logits = None if tie_logit_vectors else nn.Parameter(logit_vectors(heads, inner))
        self.key_logits = None if tie_logit_vectors else nn.Parameter(logit_vectors(heads, inner))
        self.transform = Linear(inner, inner)
        self.output = Linear(inner, dim, bias=out_bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        query_logits: Tensor | None = None,
        key_logits: Tensor | None = None,
        turns: Tensor | None = None,
        carry: Carry | None = None,
    ) -> Tensor:
        """Additive attention over the whole sequence.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token.
            query_logits, key_logits: W_a and W_b (H, H K), with ``tie_logit_vectors`` only.
            turns: `rotation` of the positions (`layers/rotary`), where a model made it for all layers; None: made here.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``.

        Returns:
            (B, N, D), zero at padded positions.

        Raises:
            ValueError: for wrong shapes, or logit vectors missing or given in vain.
        """
        x = checked(x, mask, self.dim)
        state: AdditiveState | None = None if carry is None else carry.before
        y, pools = self._run(x, mask, state, query_logits, key_logits, turns)
        if carry is not None and state is not None:
            carry.after = AdditiveState(pools[0], pools[1], count_on(state.seen, mask, x.shape[1]))
        return y

    def init_state(self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AdditiveState:
        """The state before the first token.

        Raises:
            NotCausalError: if the layer is bidirectional.
        """
        if not self.causal:
            raise NotCausalError("this AdditiveAttention")
        device, dtype = default_device(self, device, dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        query_pool, key_pool = (empty_pool(batch_size, self.heads, self.width, device=device, dtype=dtype) for _ in range(2))
        return AdditiveState(query_pool, key_pool, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def extend(
        self,
        x: Tensor,
        state: AdditiveState,
        *,
        mask: Tensor | None = None,
        query_logits: Tensor | None = None,
        key_logits: Tensor | None = None,
        turns: Tensor | None = None,
    ) -> tuple[Tensor, AdditiveState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after. Cost does not depend on what
        came before."""
        return self._carried(x, state=state, mask=mask, query_logits=query_logits, key_logits=key_logits, turns=turns)

    def _run(
        self,
        x: Tensor,
        mask: Tensor | None,
        state: AdditiveState | None,
        query_logits: Tensor | None,
        key_logits: Tensor | None,
        turns: Tensor | None,
    ) -> tuple[Tensor, tuple[PoolState, ...]]:
        given = x.dtype
        maps = (self.query, self.key) if self.value is None else (self.query, self.key, self.value)
        queries, keys, *others = maps_of(x, *maps)
        values = others[0] if others else queries
        dtype = exact_dtype(queries)
        with no_autocast(x):  # three factors of the size of an activation: too large for float16
            if self.rotary and turns is None:
                turns = position_turns(x, mask, None if state is None else state.seen, self.width)
            turns = turns.to(dtype) if self.rotary and turns is not None else None
            mixed, pools = self._mix(
                queries.to(dtype), keys.to(dtype), values.to(dtype), mask, state, turns,
                self._logits("query_logits", self.query_logits, query_logits).to(dtype),
                self._logits("key_logits", self.key_logits, key_logits).to(dtype),
                given,
            )  # fmt: skip
            y = map_exactly(mixed, self.output, given)
        return zero_padding(self.dropout(fitting(y, given)), mask), pools

    def _mix(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        state: AdditiveState | None,
        turns: Tensor | None,
        query_logits: Tensor,
        key_logits: Tensor,
        given: torch.dtype,
    ) -> tuple[Tensor, tuple[PoolState, ...]]:
        """W_u u + q of the paper, (B, N, H K), from q, k and v of the same shape.

        With one global vector for all positions p and u need not exist once the sequence is longer than it is wide: a product with the
        vector is linear, and goes into the weights that read it, or out of the mean over it. (A compiler fuses the products instead.)
        """
        rotary, shared, flat = turns is not None, values is queries, queries
        queries, keys = split_heads(queries, width=self.width), split_heads(keys, width=self.width)
        values = queries if shared else split_heads(values, width=self.width)
        if self.causal:
            mixed, pools = self._running(queries, keys, values, mask, state, turns, query_logits, key_logits)
            return map_exactly(merge_heads(mixed), self.transform, given, plus=flat), pools
        way = computed_by(None, queries, native=partial(native_mean.fits, queries, turns, query_logits, key_logits))
        folded = way != "formula" and flat.shape[1] > flat.shape[2] and is_untouched(self.transform, Linear)
        values = values if shared or turns is None else turn(values, turns)
        if folded and way == "native":
            means = self._means_by_kernel(queries, keys, mask, turns, query_logits, key_logits, write=shared)
            queries, global_query, global_key, flat = means
        else:
            logits = self._scores(queries, query_logits)
            queries, keys = (queries, keys) if turns is None else (turn(queries, turns), turn(keys, turns))
            global_query = softmax_mean(logits, queries, mask)
            if folded:
                logits = _by_row(merge_heads(keys), _folded(key_logits, global_query, rotary)).transpose(1, 2) * self.width**-0.5
            else:
                keys = _product(keys, global_query, rotary)
                logits = self._scores(keys, key_logits)
            global_key = softmax_mean(logits, keys if turns is None else turn(keys, turns), mask)
        values = queries if shared else values
        if folded:
            global_key = _product(global_key, global_query, rotary)  # so far a mean of k instead of p
            weight, bias = self.transform.weight.to(values.dtype), self.transform.bias.to(values.dtype)
            return _by_row(merge_heads(values), _folded(weight, global_key, rotary), bias, flat), ()
        return map_exactly(merge_heads(_product(values, global_key, rotary)), self.transform, given, plus=flat), ()

    def _running(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        state: AdditiveState | None,
        turns: Tensor | None,
        query_logits: Tensor,
        key_logits: Tensor,
    ) -> tuple[Tensor, tuple[PoolState, ...]]:
        """u of the paper with means that run over the positions up to each, (B, H, N, K), from q, k and v of the same shape."""
        if state is None:
            first = second = empty_pool(queries.shape[0], self.heads, self.width, device=queries.device, dtype=queries.dtype)
        else:
            first, second = state.query_pool, state.key_pool
        logits, rotary = self._scores(queries, query_logits), turns is not None
        means = (logits, queries, keys, first, turns), (logits, keys, values, second, turns)
        if computed_by(None, queries, native=lambda: all(native_running.fits(*mean) for mean in means)) == "native":
            keys, first = native_running.read_mean(logits, queries, keys, first, mask, turns)
            mixed, second = native_running.read_mean(self._scores(keys, key_logits), keys, values, second, mask, turns)
            return mixed, (first, second)
        if turns is not None:
            shared = values is queries
            queries, keys = turn(queries, turns), turn(keys, turns)
            values = queries if shared else turn(values, turns)
        mean, first = running_softmax_mean(logits, queries, mask, first)
        keys = _product(keys, mean, rotary)
        logits = self._scores(keys, key_logits)
        mean, second = running_softmax_mean(logits, keys if turns is None else turn(keys, turns), mask, second)
        return _product(values, mean, rotary), (first, second)

    def _scores(self, x: Tensor, weights: Tensor) -> Tensor:
        """Logits (B, H, N) of (B, H, N, K): all channels of a position say how much it counts for each head."""
        return (merge_heads(x) @ weights.T).transpose(1, 2) * self.width**-0.5

    def _means_by_kernel(
        self,
        queries: Tensor,
        keys: Tensor,
        mask: Tensor | None,
        turns: Tensor | None,
        query_logits: Tensor,
        key_logits: Tensor,
        *,
        write: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of (B, H, N, K), one pass over each: the queries, turned if they are to be written, the means of turned q and of k, and the
        queries for what else reads them, (B, N, H K): their gradients are added in that pass."""
        rotary, scale = turns is not None, self.width**-0.5
        write = write and rotary
        global_query, turned, queries = native_mean.NativeMean.apply(queries, turns, query_logits, mask, False, scale, write)
        global_key, *_ = native_mean.NativeMean.apply(keys, turns, _folded(key_logits, global_query, rotary), mask, True, scale, False)
        return turned if write else queries, global_query, global_key, merge_heads(queries)

    def _logits(self, name: str, own: Tensor | None, given: Tensor | None) -> Tensor:
        if own is None:
            shape, got = (self.heads, self.heads * self.width), None if given is None else tuple(given.shape)
            text = f"tie_logit_vectors takes the vectors from outside: pass {name}, (heads, heads * head_dim) = {shape}, got {got}"
            require(got == shape, text)
            return given  # type: ignore[return-value]
        require(given is None, f"{name} is for tie_logit_vectors=True; this layer has its own")
        return own


def logit_vectors(heads: int, inner: int) -> Tensor:
    """One fresh logit vector per head, (H, H K), of the scale of a linear layer."""
    return torch.randn(heads, inner) * inner**-0.5


def _folded(weight: Tensor, whole: Tensor, rotary: bool) -> Tensor:
    """The weight (O, H K) that gives of x what ``weight`` gives of x * whole, for each row: (B, O, H K)."""
    rows = split_heads(weight.expand(whole.shape[0], -1, -1), width=whole.shape[3])
    return merge_heads(_product(rows, whole, rotary, conjugate=False))


def _by_row(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """(B, N, I), with a weight (B, O, I) for each row -> (B, N, O), to which ``plus`` is added."""
    if len(x) == 1:
        return linear(x, weight[0], bias, plus=plus)
    y = torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)
    return y if plus is None else y + plus


def _product(x: Tensor, whole: Tensor, rotary: bool, *, conjugate: bool = True) -> Tensor:
    """x * whole, (B, H, N, K) and (B, H, N or 1, K); with ``rotary`` channel pairs (i, i + K/2) are complex numbers and ``whole`` is
    conjugated, unless it goes into a weight."""
    return complex_product(x, whole, conjugate=conjugate) if rotary else x * whole
