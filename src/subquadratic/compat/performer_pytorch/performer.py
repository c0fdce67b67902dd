"""The Performer with the published keywords and results, on the layers that this package shares.

Axes: B batch, N length, S length (context), D width, K head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import NotCausalError, check_mask, check_sequence, require, require_positive
from ...core.padding import zero_padding
from ...core.scalars import plain_scalars
from ...layers.residual import StackState
from ...layers.streaming import default_device
from ..feed_forward import FeedForward
from ..sequences import PreLayerNorm, ReversibleSequence, SequentialSequence
from .attention import CrossAttention, SelfAttention
from .checkpoints import rename_performer_keys
from .redraw import ProjectionUpdater, redraw_all_
from .wrappers import Chunk, PreScaleNorm, PreShiftTokens, ReZero, go_on, start


class Performer(nn.Module):
    """The stack of layers: (B, N, D) -> (B, N, D). Attention and feed-forward per layer; with ``cross_attend`` also cross-attention and
    another feed-forward after them.

    Args:
        dim, depth, heads, dim_head: D, layers, heads and K (None: dim / heads).
        local_attn_heads: heads per layer that attend to a window of ``local_window_size``; one number, or one per layer.
        causal: position i sees tokens up to i.
        ff_mult, ff_glu, ff_chunks, ff_dropout: the feed-forward layers.
        nb_features, generalized_attention, kernel_fn, no_projection: see :class:`FastAttention`.
        feature_redraw_interval: forward calls in training from one redraw of the random features to the next; None = never.
        reversible: recompute activations in backward; the result is the sum of two streams.
        use_scalenorm, use_rezero: instead of a layer norm before each branch; ScaleNorm wins when both are asked for, as published.
        attn_dropout: see :class:`Attention`.
        cross_attend: see above.
        auto_check_redraw: count forward calls here; otherwise call :meth:`check_redraw_projections` once a step.
        qkv_bias, attn_out_bias: biases of the attention layers.
        shift_tokens: some channels come from the neighbouring tokens.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int | None = 64,
        local_attn_heads: int | tuple[int, ...] = 0,
        local_window_size: int = 256,
        causal: bool = False,
        ff_mult: int = 4,
        nb_features: int | None = None,
        feature_redraw_interval: int | None = 1000,
        reversible: bool = False,
        ff_chunks: int = 1,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        use_scalenorm: bool = False,
        use_rezero: bool = False,
        ff_glu: bool = False,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        cross_attend: bool = False,
        no_projection: bool = False,
        auto_check_redraw: bool = True,
        qkv_bias: bool = True,
        attn_out_bias: bool = True,
        shift_tokens: bool = False,
    ):
        super().__init__()
        require_positive(depth=depth)
        local_heads = _per_layer(local_attn_heads, depth, heads)
        self.dim, self.causal, self.cross_attend = dim, causal, cross_attend
        self.norm = "scale" if use_scalenorm else "rezero" if use_rezero else "layer"
        attention: dict[str, Any] = {
            "heads": heads, "dim_head": dim_head, "nb_features": nb_features, "generalized_attention": generalized_attention,
            "kernel_fn": nn.ReLU() if kernel_fn is None else kernel_fn, "dropout": attn_dropout, "no_projection": no_projection,
            "qkv_bias": qkv_bias, "attn_out_bias": attn_out_bias,
        }  # fmt: skip
        layers = nn.ModuleList()
        for local in local_heads:
            for cross in (False, True) if cross_attend else (False,):
                attend: nn.Module = (
                    CrossAttention(dim, **attention)
                    if cross
                    else SelfAttention(dim, causal, local_heads=local, local_window_size=local_window_size, **attention)
                )
                feed_forward = FeedForward(dim, ff_mult, ff_dropout, glu=ff_glu)
                pair = (attend, Chunk(ff_chunks, feed_forward, along_dim=1))
                layers.append(nn.ModuleList(self._wrap(layer, shift=shift_tokens and not cross) for layer in pair))
        self.net = (ReversibleSequence if reversible else SequentialSequence)(layers, _routes(depth, cross_attend, shift_tokens))
        self.auto_check_redraw = auto_check_redraw
        self.proj_updater = ProjectionUpdater(self.net, feature_redraw_interval)
        self.register_load_state_dict_pre_hook(rename_performer_keys)

    def _wrap(self, layer: nn.Module, *, shift: bool) -> nn.Module:
        if shift:
            layer = PreShiftTokens((0, 1) if self.causal else (-1, 0, 1), layer)
        if self.norm == "rezero":
            return ReZero(layer)
        return (PreScaleNorm if self.norm == "scale" else PreLayerNorm)(self.dim, layer)

    def check_redraw_projections(self) -> None:
        """Count a call, and redraw the random features when it is time. Does nothing in eval mode."""
        self.proj_updater.redraw_projections()

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features now; ``generator`` is a CPU generator, None the global one."""
        redraw_all_(self, generator)

    def fix_projection_matrices_(self) -> None:
        """Never redraw by count again."""
        self.proj_updater.fix_projections_()

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        pos_emb: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            mask: (B, N) bool, True = real token. What padding holds does not matter.
            pos_emb: (1 or B, N, K) sinusoid that rotates queries and keys.
            context, context_mask: (B, S, D) and bool (B, S); with ``cross_attend`` only, and then needed.
        """
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        self._check_context(context)
        if self.auto_check_redraw:
            self.check_redraw_projections()
        x = zero_padding(x, mask)
        return self.net(x, mask=mask, shift_mask=mask, pos_emb=pos_emb, context=context, context_mask=context_mask)

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StackState:
        """Before the first token. The context is read here."""
        if not self.causal:
            raise NotCausalError("this Performer")
        self._check_context(context)
        where, kind = default_device(self, device, dtype)
        return start(self.net, self.dim, batch_size, device=where, dtype=kind, context=context, context_mask=context_mask)

    def extend(
        self, x: Tensor, state: StackState, *, mask: Tensor | None = None, pos_emb: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """The next N tokens, and the state after them."""
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        return go_on(self.net, zero_padding(x, mask), state, mask=mask, shift_mask=mask, pos_emb=pos_emb)

    def _check_context(self, context: Tensor | None) -> None:
        require(context is None or self.cross_attend, "context was given to a Performer without cross_attend=True")
        require(context is not None or not self.cross_attend, "cross_attend=True needs context, (batch, length, dim), got None")


def _per_layer(local_attn_heads: int | tuple[int, ...], depth: int, heads: int) -> tuple[int, ...]:
    """Local heads of each layer."""
    given = tuple(local_attn_heads) if isinstance(local_attn_heads, tuple | list) else (local_attn_heads,)
    every = given * depth if len(given) == 1 else given
    require(len(every) == depth, f"local_attn_heads must be one number, or one per layer ({depth}), got {local_attn_heads!r}")
    require(all(0 <= count <= heads for count in every), f"local_attn_heads must be from 0 to heads = {heads}, got {local_attn_heads!r}")
    return every


def _routes(depth: int, cross_attend: bool, shift_tokens: bool) -> dict[str, tuple[tuple[bool, bool], ...]]:
    """Which arguments go to the two branches of each layer. ``shift_mask`` is what a shift of tokens before a feed-forward layer reads."""
    each = ((False,) if not cross_attend else (False, True)) * depth  # whether the layer attends to the context
    own, context = tuple((not cross, False) for cross in each), tuple((cross, False) for cross in each)
    shifted = tuple((False, shift_tokens and not cross) for cross in each)
    return {"mask": own, "shift_mask": shifted, "pos_emb": own, "context": context, "context_mask": context}
