"""Random sequences of which a model without attention can predict little, and by how much it must fail.

Axes: B batch, N length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def urns(count: int, length: int, *, seed: int, symbols: int, drawn: int) -> Tensor:
    """Each row is drawn from `drawn` symbols of its own: (B, N) int64 below `symbols`.

    Whoever has seen the row needs log `drawn` nats for a token; whoever sees only one of its tokens needs `alone`.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(count, symbols, generator=generator).topk(drawn, dim=1).indices
    return own.gather(1, torch.randint(drawn, (count, length), generator=generator))


def alone(symbols: int, drawn: int) -> float:
    """Nats per token of an urn that a model needs which sees one token of the row and knows nothing else of it."""
    same = 1 / drawn
    return -same * math.log(same) - (1 - same) * math.log((1 - same) / (symbols - 1))


def halves(count: int, length: int, *, seed: int, symbols: int) -> Tensor:
    """Rows whose second half is the first again: (B, N) int64 below `symbols`, uniform for whoever sees no other place."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(symbols, (count, length // 2), generator=generator)
    return torch.cat((half, half), dim=1)


def counted(count: int, length: int, *, seed: int, symbols: int, classes: int) -> dict[str, Tensor]:
    """How often the first token of a row comes again, in `classes` steps: `tokens` (B, N) int64, `labels` (B,).

    Symbols are turned by a random amount in each row, so that the number of any one of them says nothing of it.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(symbols, (count, length), generator=generator)
    share = 0.6 * torch.rand(count, 1, generator=generator)
    tokens = torch.where(torch.rand(count, length, generator=generator) < share, tokens[:, :1], tokens)
    again = F.one_hot(tokens[:, 1:], symbols).float().mean(dim=1).gather(1, tokens[:, :1]).squeeze(1)
    return {"tokens": tokens, "labels": (again / 0.75 * classes).long().clamp(max=classes - 1)}
