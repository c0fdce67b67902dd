"""The loss with the context cut: the same tokens predicted from all of a window, from half of it, from a quarter, and so on. Where half
the context predicts as well as all of it, the model does not use the far half.

Targets are runs of neighbouring tokens. With a context of c tokens a run is cut into pieces of c / 8, and each piece is predicted from the
c tokens before its last one: a target has between 7/8 of c and c tokens before it, and a run costs about as many tokens as a window
holds, however short the context. A masked model sees half of the context on either side, and the same neighbours of a target are hidden
in every cut.

A Perceiver AR predicts no more than its last `latents` tokens at once, so its pieces have no more. As everywhere, an earlier one of them
has fewer latents before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.tally import Tally
from ...evaluation.text import Text
from ...evaluation.windows import PASSES, Batch, is_causal, reach, scored_losses, stacked
from ...layers.modes import evaluating
from ..results import Cut
from .positions import BATCH
from .spread import groups_until

SHORTEST = 16  # tokens of context
FINENESS = 8  # a target's context is less than the cut's by one part in so many, at most
TARGETS = 2048


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of targets over a text, side by side. Whatever stands around a run's targets in any cut lies in the run's window."""

    text: Text
    length: int
    causal: bool
    seed: int

    @property
    def size(self) -> int:
        """Targets of a run."""
        return max(1, self.length // FINENESS)

    @property
    def width(self) -> int:
        """Tokens of a run's window: so many that each target alone could have a whole context."""
        return self.length + self.size - 1

    @property
    def count(self) -> int:
        return max(0, (len(self.text) - self.width) // self.size + 1)

    def rows(self, run: int, *, context: int, piece: int) -> Iterator[Batch]:
        """Rows of context + 1 tokens that together predict run number `run` once: `tokens`, `scored`, and `masked` for a masked model."""
        window = run * self.size
        start = window + self.length - 1 if self.causal else window + (self.length - 1) // 2
        turns = None if self.causal else self._turns(run)
        for first in range(start, start + self.size, piece):
            stop = min(first + piece, start + self.size)
            begin = stop - 1 - context if self.causal else first - (context + 1 - (stop - first)) // 2
            places = torch.arange(begin, begin + context + 1)
            row = {"tokens": self.text.read(begin, begin + context + 1), "scored": (places >= first) & (places < stop)}
            if turns is None:
                yield row
                continue
            own = turns[places - window]
            for turn in own[row["scored"]].unique():
                hidden = own == turn
                yield {**row, "masked": hidden, "scored": row["scored"] & hidden}

    def _turns(self, run: int) -> torch.Tensor:
        """(width,) which tokens of the window are hidden together, as in `evaluation.windows`."""
        return torch.from_numpy(np.random.default_rng([self.seed, run]).permutation(self.width) % min(PASSES, self.width))


@torch.no_grad()
def loss_by_context(
    model: Any,
    text: Text,
    *,
    length: int,
    sizes: NDArray[np.int64] | None = None,
    targets: int = TARGETS,
    deadline: float | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
) -> list[Cut]:
    """Bits per byte, or per token, of the same targets from at most length, length / 2, length / 4 ... down to 16 tokens of context.

    Args:
        model: a LanguageModel, or another module with `config.causal` and `token_losses`; in eval mode while this lasts.
        text: validation data.
        length: tokens in a training window. The whole of it leaves a token length - 1 others to be predicted from.
        sizes: (V,) bytes that each token stands for, for bits per byte; None: the tokens are no text, and values are bits per token.
        targets: how many tokens are predicted, about, spread evenly over the text. The same number gives the same tokens for every model.
        deadline: a time of `time.monotonic` after which no further batch of runs begins; the first is measured in any case.
        batch_size: a batch has no more tokens than so many windows.
        seed: of which tokens are hidden together from a masked model.

    Returns:
        From the whole window to the shortest context. Nothing where the text is shorter than 9/8 of a window, or the targets stand for no
        byte.

    Raises:
        ValueError: a loss that is not finite.
    """
    runs = Runs(text=text, length=length, causal=is_causal(model), seed=seed)
    tallies = {context: Tally(sizes) for context in contexts(length)}
    with evaluating(model):
        for group in groups_until(deadline, count=runs.count, most=-(-targets // runs.size), size=batch_size):
            for context, tally in tallies.items():
                _measure(model, runs, group, context, tally, most=batch_size * length)
    if not runs.count:
        return []
    scores = {context: tally.score(seconds=0.0, how="cut") for context, tally in tallies.items()}
    values = {context: score.bits_per_token if sizes is None else score.bits_per_byte for context, score in scores.items()}
    labels = {context: length if context == length - 1 else context for context in scores}
    return [
        Cut(context=labels[context], predicted=scores[context].predicted, value=value)
        for context, value in values.items()
        if value is not None
    ]


def contexts(length: int) -> list[int]:
    """Tokens beside the predicted one: all others of a window, then half a window, and so on."""
    found, context = [length - 1], length // 2
    while context >= SHORTEST:
        found.append(context)
        context //= 2
    return found


def _measure(model: Any, runs: Runs, group: list[int], context: int, tally: Tally, *, most: int) -> None:
    """Runs `group` from one context, `most` tokens at a time."""
    device = next(model.parameters()).device
    piece = max(1, min((context + 1) // FINENESS, reach(model, context + 1)))
    rows = [row for run in group for row in runs.rows(run, context=context, piece=piece)]
    together = max(1, most // (context + 1))
    for first in range(0, len(rows), together):
        batch = {name: tensor.to(device) for name, tensor in stacked(rows[first : first + together]).items()}
        nats, right, targets, places = scored_losses(model, **batch)
        tally.add(nats, right, targets, places.cpu().numpy())
