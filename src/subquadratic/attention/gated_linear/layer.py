"""Gated linear attention (GLA, arXiv 2312.06635, section 4.4), with the fixed decays of RetNet (arXiv 2307.08621) as a special case.

Axes: B batch, N length, D width, H heads, K width of queries and keys, V width of values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.choices import DECAYS, key_width
from ...core.errors import require_above_zero, require_choice, require_positive, require_probability
from ...core.numerics import Float32Buffers, exact_dtype
from ...core.padding import checked, count_on, zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.linear.layer import Linear, maps_of
from ...layers.multi_head import head_width, merge_heads, position_turns, require_even, split_heads
from ...layers.rotary.op import turn_both
from ...layers.streaming import Carry, Streaming, default_device
from .op import FadingState, empty_sum, gated_linear_attention


@state
class GatedLinearState(State):
    """What a layer has seen. Its size does not depend on how long that was."""

    sum: FadingState
    seen: Tensor  # (B,) int64, real tokens so far


class GatedLinearAttention(Float32Buffers, Streaming):
    """Multi-head linear attention whose sum of keys and values fades, and whose output is normalised per head and gated.

    Per head, with q, k, v maps of x: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t / sqrt(K); the output is
    W_o (swish(W_r x) * rms_norm(o)).

    Args:
        dim: D.
        heads: H.
        head_dim: V; None: dim / heads.
        key_dim: K; None: V / 2, as in the paper.
        decay: "channel": a_t = sigmoid(W_2 W_1 x_t + b)^(1/tau), one decay a channel of a head (GLA, section 4.4); "head": one a head, from
            the same maps; "fixed": 1 - 2^(-5-h) for head h whatever the token (RetNet, eq. 8).
        decay_rank: width between W_1 and W_2; the paper has 16.
        decay_temperature: tau; the paper has 16. Larger: slower forgetting.
        output_gate: the factor swish(W_r x).
        rotary: rotary positions on queries and keys. The paper has none: decays tell near from far.
        dropout: of the output.
        qkv_bias, out_bias: biases of the maps.

    Raises:
        ValueError: for values out of range, an odd ``key_dim`` with ``rotary``.

    Causal only: a sum that fades has a direction. Cost O(N C (K + V) + N K V) a head with chunks of C = 64. Streaming state: H K V numbers,
    whatever the length.
    """

    log_decay: Tensor  # (H, 1, 1), where it is fixed

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        key_dim: int | None = None,
        decay: str = "channel",
        decay_rank: int = 16,
        decay_temperature: float = 16.0,
        output_gate: bool = True,
        rotary: bool = False,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        out_bias: bool = False,
    ):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        narrow = key_width(width, key_dim)
        require_choice("decay", decay, DECAYS)
        require_even(narrow, rotary)
        require_positive(decay_rank=decay_rank)
        require_above_zero(decay_temperature=decay_temperature)
        require_probability(dropout=dropout)
        self.dim, self.heads, self.width, self.key_width, self.rotary = dim, heads, width, narrow, rotary
        self.decay, self.decay_temperature, self.causal = decay, decay_temperature, True
        self.query = Linear(dim, heads * narrow, bias=qkv_bias)
        self.key = Linear(dim, heads * narrow, bias=qkv_bias)
        self.value = Linear(dim, heads * width, bias=qkv_bias)
        self.gate = Linear(dim, heads * width, bias=False) if output_gate else None
        self.norm = HeadNorm(width)
        self.output = Linear(heads * width, dim, bias=out_bias)
        self.dropout = nn.Dropout(dropout)
        learned = decay != "fixed"
        self.decay_down = Linear(dim, decay_rank, bias=False) if learned else None
        self.decay_up = Linear(decay_rank, heads * (narrow if decay == "channel" else 1)) if learned else None
        if not learned:
            fixed = torch.log1p(-torch.exp2(-5.0 - torch.arange(heads)))
            self.register_buffer("log_decay", fixed[:, None, None], persistent=False)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, turns: Tensor | None = None, carry: Carry | None = None) -> Tensor:
        """Attention of every position to itself and what came before.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token.
            turns: `rotation` of the positions (`layers/rotary`) at width K, where a model made it for all layers; None: made here.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``.

        Returns:
            (B, N, D), zero at padded positions.

        Raises:
            ValueError: for wrong shapes.
        """
        x = checked(x, mask, self.dim)
        before: GatedLinearState | None = None if carry is None else carry.before
        queries, keys, values = maps_of(x, self.query, self.key, self.value)
        values = values.to(exact_dtype(values))  # what is mixed may be beyond float16 before it is normalised
        queries, keys = split_heads(queries, width=self.key_width), split_heads(keys, width=self.key_width)
        if self.rotary:
            turns = position_turns(x, mask, None if before is None else before.seen, self.key_width) if turns is None else turns
            queries, keys = turn_both(queries, keys, turns)
        y, after = gated_linear_attention(
            queries, keys, split_heads(values, width=self.width), self._log_decay(x), mask, None if before is None else before.sum
        )
        if carry is not None and before is not None:
            carry.after = GatedLinearState(after, count_on(before.seen, mask, x.shape[1]))
        return zero_padding(self.dropout(self.output(self._gated(x, y))), mask)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> GatedLinearState:
        """The state before the first token."""
        device, dtype = default_device(self, device, dtype)
        exact = torch.promote_types(dtype, torch.float32)
        empty = empty_sum(batch_size, self.heads, self.key_width, self.width, device=device, dtype=exact)
        return GatedLinearState(empty, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def extend(
        self, x: Tensor, state: GatedLinearState, *, mask: Tensor | None = None, turns: Tensor | None = None
    ) -> tuple[Tensor, GatedLinearState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after. Cost does not depend on what
        came before."""
        return self._carried(x, state=state, mask=mask, turns=turns)

    def _gated(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, N, D) and (B, H, N, V) -> (B, N, H V)."""
        y = merge_heads(self.norm(y))
        if self.gate is None:
            return y.to(x.dtype)
        gate = self.gate(x)
        return gate * torch.sigmoid(gate) * y.to(gate.dtype)  # silu's backward knows no forward-mode derivative

    def _log_decay(self, x: Tensor) -> Tensor:
        """(B, H, N, K or 1), float32 at least: a decay near 1 in bfloat16 would forget in steps of 1/256."""
        if self.decay_up is None or self.decay_down is None:
            return self.log_decay.to(exact_dtype(x)).expand(x.shape[0], -1, x.shape[1], -1)
        logits = split_heads(self.decay_up(self.decay_down(x)), width=self.key_width if self.decay == "channel" else 1)
        logits = logits.to(exact_dtype(logits))
        # ONNX has no logsigmoid: exporters write the logarithm of a sigmoid that may be 0
        decay = -F.softplus(-logits) if torch.compiler.is_exporting() else F.logsigmoid(logits)
        return decay / self.decay_temperature


class HeadNorm(nn.Module):
    """Divides (B, H, N, V) by its root mean square over V, and scales each channel; one gain for all heads, which starts at 1.

    In float32 at least; of PyTorch's operators, which every transform of ``torch.func`` follows (it cannot follow RMSNorm's in torch 2.13).
    """

    def __init__(self, width: int, *, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, N, V) -> (B, H, N, V), float32 or float64."""
        x = x.to(exact_dtype(x))
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.epsilon) * self.weight.to(x.dtype)
