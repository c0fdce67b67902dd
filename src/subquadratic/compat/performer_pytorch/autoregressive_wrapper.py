"""Training and sampling around a language model, with the published keywords; the samplers do what their names say.

Axes: B batch, N length, V tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import check_mask, require
from ...core.scalars import plain_scalars
from ...generation.stopping import EndTokens, check_ends, end_tokens, is_end
from ...layers.modes import evaluating


def top_k(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keep the largest fraction ``1 - thres`` of (B, V) logits, one at least; the others become -inf."""
    count = max(1, min(int((1 - thres) * logits.shape[-1]), logits.shape[-1]))
    kept, index = logits.topk(count, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, kept)


def top_p(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keep the fewest of (B, V) logits whose probabilities reach ``thres`` together (nucleus sampling, arXiv 1904.09751)."""
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    beyond = before >= thres
    beyond[..., 0] = False
    return torch.empty_like(logits).scatter(-1, index, ordered.masked_fill(beyond, -torch.inf))


def repetition_penalty_fn(logits: Tensor, ctx: Tensor, theta: float = 1.2, mask: Tensor | None = None) -> Tensor:
    """Make the tokens that each row has seen less likely (CTRL, arXiv 1909.05858): positive logits over ``theta``, negative ones times it.

    Args:
        logits: (B, V).
        ctx: (B, N) tokens seen.
        mask: (B, N) bool, True = real token.
    """
    weights = torch.ones_like(ctx, dtype=logits.dtype) if mask is None else mask.to(logits.dtype)
    seen = torch.zeros_like(logits).scatter_add(-1, ctx, weights) > 0
    return torch.where(seen, torch.where(logits > 0, logits / theta, logits * theta), logits)


class AutoregressiveWrapper(nn.Module):
    """Next-token loss and generation.

    Args:
        net: (B, N) tokens -> (B, N, V), with ``max_seq_len``.
        ignore_index: targets that do not count in the loss. Token 0 by default, as published: pass -100 to learn every token.
        pad_value: what follows the end of a row that ended before others.
    """

    @plain_scalars
    def __init__(self, net: nn.Module, ignore_index: int = 0, pad_value: int = 0):
        super().__init__()
        self.net = net
        self.ignore_index, self.pad_value = ignore_index, pad_value
        self.max_seq_len: int = net.max_seq_len  # type: ignore[assignment]

    @torch.no_grad()
    def generate(
        self,
        start_tokens: Tensor,
        seq_len: int,
        eos_token: EndTokens | None = None,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] = top_k,
        filter_thres: float = 0.9,
        repetition_penalty: float = 1.0,
        repetition_penalty_ctx: int = 32,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Continue (B, N) or (N,) tokens by up to ``seq_len``; gives the new tokens only.

        A causal Performer goes on from its state, at the same cost for each token, until ``max_seq_len`` is full. From there on, and for
        other nets, the last ``max_seq_len`` tokens are read anew for each token, as published.

        Args:
            eos_token: one, or several in a list: a row that has produced one is filled with ``pad_value``;
                when every row has, generation stops.
            temperature: 0 takes the most likely token.
            filter_logits_fn: ``(logits, thres=filter_thres)`` -> logits.
            repetition_penalty: 1 = none; see :func:`repetition_penalty_fn`. Looks at the last ``repetition_penalty_ctx`` tokens.
            mask: (B, N) bool, True = real token of the start, which may be padded on either side.
            generator: for the draws.
            kwargs: for the net: ``context``, ``context_mask``.
        """
        require(temperature >= 0, f"temperature must be at least 0, got {temperature!r}")
        require(repetition_penalty > 0, f"repetition_penalty must be greater than 0 (1 = none), got {repetition_penalty!r}")
        tokens = start_tokens[None] if start_tokens.dim() == 1 else start_tokens
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.reshape(tokens.shape)
        require(bool(mask.any(dim=-1).all()), "every row of start_tokens must hold at least one real token to go on from")
        kwargs = {name: value for name, value in kwargs.items() if value is not None}

        length = tokens.shape[1]
        ended = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        ends = end_tokens(eos_token)
        with evaluating(self.net):
            reader = _Reader(self.net, self.max_seq_len, kwargs)
            for _ in range(seq_len):
                logits = reader.next_logits(tokens, mask)
                check_ends(ends, logits.shape[-1])
                if repetition_penalty != 1.0:
                    recent = slice(-repetition_penalty_ctx, None)
                    logits = repetition_penalty_fn(logits, tokens[:, recent], repetition_penalty, mask[:, recent])
                filtered = filter_logits_fn(logits, thres=filter_thres)
                if temperature == 0:
                    drawn = filtered.argmax(dim=-1)
                else:
                    drawn = torch.multinomial((filtered / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
                drawn = drawn.masked_fill(ended, self.pad_value)
                tokens = torch.cat((tokens, drawn[:, None]), dim=1)
                mask = F.pad(mask, (0, 1), value=True)
                if ends:
                    ended = ended | is_end(drawn, ends)
                    if bool(ended.all()):
                        break
        new = tokens[:, length:]
        return new[0] if start_tokens.dim() == 1 else new

    def forward(self, x: Tensor, *, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean loss of predicting each of (B, N) tokens from those before it, in nats.

        Args:
            mask: (B, N) or, for the inputs alone, (B, N - 1). With the former, padding does not count as a target either.
            kwargs: for the net: ``context``, ``context_mask``.
        """
        inputs, targets = x[:, :-1], x[:, 1:]
        if mask is not None and mask.shape[1] == x.shape[1]:
            check_mask(mask, *x.shape)
            targets = targets.masked_fill(~mask[:, 1:], self.ignore_index)
            mask = mask[:, :-1]
        logits = self.net(inputs, mask=mask, **kwargs)
        counted = (targets != self.ignore_index).sum().clamp_min(1)
        return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=self.ignore_index, reduction="sum") / counted

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features in the net."""
        self.net.redraw_(generator)  # type: ignore[operator]

    def fix_projection_matrices_(self) -> None:
        """Never redraw the net's features by count again."""
        self.net.fix_projection_matrices_()  # type: ignore[operator]


class _Reader:
    """Logits of the next token, from a state as long as that is possible."""

    def __init__(self, net: nn.Module, max_seq_len: int, arguments: dict[str, Any]):
        self.net, self.max_seq_len, self.arguments = net, max_seq_len, arguments
        self.streams = bool(getattr(net, "causal", False)) and hasattr(net, "extend")
        self.state: Any = None

    def next_logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N) tokens so far -> (B, V)."""
        if not self.streams or tokens.shape[1] > self.max_seq_len:
            window, window_mask = tokens[:, -self.max_seq_len :], mask[:, -self.max_seq_len :]
            return _last_real(self.net(window, mask=window_mask, **self.arguments), window_mask)
        if self.state is None:
            self.state = self.net.init_state(tokens.shape[0], **self.arguments)  # type: ignore[operator]
        else:
            tokens, mask = tokens[:, -1:], mask[:, -1:]
        logits, self.state = self.net.extend(tokens, self.state, mask=mask)  # type: ignore[operator]
        return _last_real(logits, mask)


def _last_real(logits: Tensor, mask: Tensor) -> Tensor:
    """(B, N, V) -> (B, V) at each row's last real token."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).amax(dim=-1)
    return logits[torch.arange(len(last), device=mask.device), last]
