"""Who may see whom, as one small tensor: what our mask functions give the models of transformers, and what comes back to our attention.

A mask of transformers is (B, 1, N, S); attention of linear cost cannot afford it. A sight is int32 (B, 2, code, S + 1), with stride 0
along ``code``, so it holds 2 B (S + 1) numbers: [:, 0] the document of each key, 0 for a key that nobody sees, and [:, 1] the position of
each key relative to the first query. What must be known without looking at numbers is in ``code``, a size, which compilers know: 2 + flags.
It has four axes since transformers passes a mask of four axes on as it is, and one more column than there are keys, so that no model which
computes for itself adds it to scores.

Axes: B batch, N length (queries), S length (keys).
"""

from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor
from torch.nn import functional as F

BASE = 2  # the code of a sight without flags


class Flags(IntFlag):
    """What holds for every row of a batch."""

    CAUSAL = 1  # a query sees no key of a later position
    WINDOW = 2  # nor one that is farther than the model's own sliding window
    PACKED = 4  # nor one of another document
    PADDED = 8  # some keys are nobody's
    STATIC = 16  # there are keys after the last query: a cache of fixed size, filled up to there


@dataclass(frozen=True)
class Sight:
    """Who may see whom in one call of attention.

    Attributes:
        causal: position by position; the last of the N queries stands where the last filled key does.
        window: keys at a distance of ``window`` or more are not seen; None: all are.
        real: (B, S) bool, True = a key that somebody sees; None: all.
        documents: (B, S) int32, the number of each key's document, from 1; None: one document.
        start: (1,) or (B,) int64, the key that belongs to the first query, where it is not S - N, else None.
    """

    causal: bool
    window: int | None = None
    real: Tensor | None = None
    documents: Tensor | None = None
    start: Tensor | None = None


def encode(flags: Flags, documents: Tensor, positions: Tensor) -> Tensor:
    """A sight as a tensor, of (B, S) documents and (S,) positions."""
    rows = torch.stack((documents.to(torch.int32), positions.to(torch.int32).expand_as(documents)), dim=1)
    return F.pad(rows, (0, 1))[:, :, None].expand(-1, -1, BASE + int(flags), -1)


def is_sight(mask: Tensor, stretch: int) -> bool:
    """Whether a mask for S = ``stretch`` keys was made by :func:`encode`: none of a user has these sizes."""
    return mask.dtype is torch.int32 and mask.dim() == 4 and mask.shape[1] == 2 and mask.shape[3] == stretch + 1


def decode(mask: Tensor, window: int | None) -> Sight:
    """The sight in a tensor of :func:`encode`, in a model whose layers of this kind have this ``window``."""
    flags = Flags(mask.shape[2] - BASE)
    documents = mask[:, 0, 0, :-1]
    hidden = Flags.PADDED in flags or Flags.STATIC in flags
    return Sight(
        causal=Flags.CAUSAL in flags,
        window=window if Flags.WINDOW in flags else None,
        real=documents > 0 if hidden else None,
        documents=documents if Flags.PACKED in flags else None,
        start=-mask[:1, 1, 0, 0].long() if Flags.STATIC in flags else None,
    )


def has(mask: Tensor, flag: Flags) -> bool:
    """Whether a tensor of :func:`encode` has a flag."""
    return flag in Flags(mask.shape[2] - BASE)
