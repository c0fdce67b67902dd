"""The loss by position: how well a model predicts tokens that have few or many others of their window before them.

Windows are as long as those of training, and stand side by side, so that every position is predicted equally often. That holds for a
Perceiver AR too, which predicts the last tokens of a window only: the others are the last ones of its beginnings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.tally import Bucket, Tally
from ...evaluation.text import Text
from ...evaluation.windows import TextWindows, is_causal, scored_losses, stacked
from ...layers.modes import evaluating
from ..results import Span
from .spread import groups_until

BATCH = 8  # windows side by side, as in evaluation


@torch.no_grad()
def loss_by_position(
    model: Any,
    text: Text,
    *,
    length: int,
    sizes: NDArray[np.int64] | None = None,
    windows: int = 1 << 30,
    deadline: float | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
) -> list[Span]:
    """Bits per byte, or per token, at positions 1 to 15, 16 to 31, 32 to 63 ... of windows; of a bidirectional model's, from 0 on.

    Args:
        model: a LanguageModel, or another module with `config.causal` and `token_losses`; in eval mode while this lasts.
        text: validation data.
        length: tokens in a window, the last of which a causal model predicts and does not read; less where the text is shorter.
        sizes: (V,) bytes that each token stands for, for bits per byte; None: the tokens are no text, and values are bits per token.
        windows: how many, at most, spread evenly over the text. The same number gives the same windows for every model.
        deadline: a time of `time.monotonic` after which no further batch of windows begins; the first is measured in any case.
        batch_size: windows side by side.
        seed: of which tokens are hidden together from a masked model.

    Returns:
        In order of position. Positions without a predicted byte are left out.

    Raises:
        ValueError: less than two tokens of text, tokens that the model does not know, or a loss that is not finite.
    """
    causal, device = is_causal(model), next(model.parameters()).device
    length = min(length, len(text))
    found = TextWindows(text, length=length, advance=max(length - causal, 1), masked=not causal, seed=seed)
    passes, tally = max(found.passes, 1), Tally(sizes)
    with evaluating(model):
        for group in groups_until(deadline, count=len(found) // passes, most=windows, size=batch_size):
            items = [found[window * passes + turn] for window in group for turn in range(passes)]
            for first in range(0, len(items), batch_size):
                batch = {name: tensor.to(device) for name, tensor in stacked(items[first : first + batch_size]).items()}
                nats, right, targets, places = scored_losses(model, **batch)
                tally.add(nats, right, targets, places.cpu().numpy())
    buckets = tally.score(seconds=0.0, how="windows").by_position
    return [span for bucket in buckets if (span := _span(bucket, length, per_byte=sizes is not None)) is not None]


def _span(bucket: Bucket, length: int, *, per_byte: bool) -> Span | None:
    value = bucket.bits_per_byte if per_byte else bucket.loss / math.log(2)
    return None if value is None else Span(start=bucket.start, stop=min(bucket.stop, length), predicted=bucket.predicted, value=value)
