"""The published training and sampling wrapper of Perceiver AR.

Mended: ``filter_thres`` keeps at least one token of any vocabulary; an end token in the prompt does not end a row; a row that has ended is
padded; a prefix mask moves with the window; the model leaves evaluation mode again after an error.

Axes: B batch, N length of the prompt, T generated tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import check_mask, require
from ...core.scalars import plain_scalars
from ...generation.sampling import sample
from ...generation.sampling_options import check_sampling
from ...generation.stopping import EndTokens, end_tokens, is_end
from ...layers.modes import evaluating
from .perceiver_ar_pytorch import PerceiverAR

__all__ = ["AutoregressiveWrapper"]


class AutoregressiveWrapper(nn.Module):
    """Loss and samples of a :class:`PerceiverAR`.

    Args:
        net: the model.
        pad_value: what follows an end token.
    """

    @plain_scalars
    def __init__(self, net: PerceiverAR, pad_value: int = 0):
        super().__init__()
        self.max_seq_len = net.max_seq_len
        self.pad_value = pad_value
        self.net = net

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Mean next-token loss of (B, N + 1) tokens; keywords go to the model (``ignore_index=-100`` counts token 0 too)."""
        return self.net(x[:, :-1], labels=x[:, 1:], **kwargs)

    @torch.no_grad()
    def generate(
        self,
        start_tokens: Tensor,
        seq_len: int,
        eos_token: EndTokens | None = None,
        temperature: float = 1.0,
        filter_thres: float = 0.9,
        *,
        prefix_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample a continuation.

        Args:
            start_tokens: (B, N), any N from 1. Beyond ``max_seq_len`` the model sees the last tokens, numbered from 0 again.
            seq_len: T.
            eos_token: one, or several in a list: a row ends after one, and holds ``pad_value`` from there on;
                sampling stops when all rows have ended.
            temperature: greater is more random; 0 takes the most likely token.
            filter_thres: sample from the (1 - filter_thres) V most likely tokens, at least one.
            prefix_mask: (B, M) bool for the first M tokens of the prompt.
            generator: source of random numbers.

        Returns:
            (B, T) generated tokens, fewer columns if all rows ended before.

        Raises:
            ValueError: for values out of range.
        """
        require(
            start_tokens.dim() == 2 and start_tokens.shape[1] >= 1,
            f"start_tokens must be (batch, length) with length at least 1, got {tuple(start_tokens.shape)}",
        )
        require(0 <= filter_thres <= 1, f"filter_thres must lie between 0 and 1, got {filter_thres!r}")
        top_k = max(1, int((1 - filter_thres) * self.net.to_logits.out_features))
        check_sampling(temperature=temperature, top_k=top_k, top_p=None)
        mask = _whole_mask(prefix_mask, start_tokens)
        out, ended = start_tokens, torch.zeros_like(start_tokens[:, :1], dtype=torch.bool)
        ends = end_tokens(eos_token, self.net.to_logits.out_features)
        with evaluating(self.net):
            for _ in range(seq_len):
                seen = None if mask is None else mask[:, -self.max_seq_len :]
                logits = self.net(out[:, -self.max_seq_len :], prefix_mask=seen)[:, -1]
                token = sample(logits, temperature=temperature, top_k=top_k, generator=generator)[:, None]
                token = token.masked_fill(ended, self.pad_value)
                out = torch.cat((out, token), dim=1)
                mask = None if mask is None else F.pad(mask, (0, 1), value=True)
                if ends:
                    ended = ended | is_end(token, ends)
                    if bool(ended.all()):
                        break
        return out[:, start_tokens.shape[1] :]


def _whole_mask(prefix_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """The mask of the whole prompt, (B, N)."""
    if prefix_mask is None:
        return None
    width = prefix_mask.shape[-1]
    require(width <= tokens.shape[1], f"prefix_mask must be no longer than start_tokens ({tokens.shape[1]}), got {width}")
    check_mask(prefix_mask, tokens.shape[0], width, name="prefix_mask")
    return F.pad(prefix_mask, (0, tokens.shape[1] - width), value=True)
