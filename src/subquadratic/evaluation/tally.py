"""Adding up predictions: losses in nats, how many were right, and how both depend on the place in the context."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .forecast import ForecastScore

FIRST_BUCKET = 16
SUMS = ("count", "nats", "right", "bytes")


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Predictions made from `start` to `stop - 1` tokens before them (masked tokens: at these places of a window)."""

    start: int
    stop: int
    predicted: int
    loss: float
    accuracy: float
    bits_per_byte: float | None


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """How well a model predicts a text.

    `loss` is the mean in nats per predicted token, `perplexity` its exponential, `accuracy` the share of predictions whose
    most likely token was right, `bits_per_byte` the information per byte of text (None where tokens are no text),
    `text_bytes` what the predicted tokens stand for, `state_bytes` the largest state carried (None: none was), `forecast` the
    errors of a series' forecasts (None: it is none).
    """

    predicted: int
    text_bytes: int
    loss: float
    bits_per_token: float
    bits_per_byte: float | None
    perplexity: float
    accuracy: float
    seconds: float
    tokens_per_second: float
    state_bytes: int | None
    how: str
    by_position: list[Bucket]
    forecast: ForecastScore | None = None


@dataclass
class Tally:
    """Sums over predictions; `sizes` (V,) is how many bytes each token stands for, or nothing."""

    sizes: NDArray[np.int64] | None = None
    sums: dict[str, NDArray[np.float64]] = field(default_factory=lambda: {name: np.zeros(64) for name in SUMS})

    def add(self, nats: Tensor, right: Tensor, targets: Tensor, before: NDArray[np.int64]) -> None:
        """(T,) each: losses, whether the most likely token was right, the tokens, and how many came before.

        Raises:
            ValueError: a loss that is NaN.
        """
        values = nats.double().cpu().numpy()
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"run: the model's loss is {values[place]} after {int(before[place]):,} tokens: its weights are damaged or overflow; "
                "evaluate another checkpoint"
            )
        # [0, 16) is bucket 0, [16, 32) bucket 1, ...
        places = np.log2(np.maximum(before, FIRST_BUCKET // 2)).astype(np.int64) - int(math.log2(FIRST_BUCKET)) + 1
        sizes = np.zeros(len(values)) if self.sizes is None else self.sizes[targets.cpu().numpy()]
        rows = {"count": np.ones(len(values)), "nats": values, "right": right.double().cpu().numpy(), "bytes": sizes}
        for name, row in rows.items():
            self.sums[name] += np.bincount(places, weights=row, minlength=64)

    @property
    def predicted(self) -> int:
        return int(self.sums["count"].sum())

    def score(self, *, seconds: float, how: str, state_bytes: int | None = None) -> TextScore:
        """The means.

        Raises:
            ValueError: nothing was predicted.
        """
        if not self.predicted:
            raise ValueError("data: the text is too short: there is no token to predict")
        total = {name: float(values.sum()) for name, values in self.sums.items()}
        loss = total["nats"] / total["count"]
        return TextScore(
            predicted=self.predicted,
            text_bytes=int(total["bytes"]),
            loss=loss,
            bits_per_token=loss / math.log(2),
            bits_per_byte=_per_byte(total["nats"], total["bytes"]),
            perplexity=math.exp(min(loss, 700.0)),
            accuracy=total["right"] / total["count"],
            seconds=seconds,
            tokens_per_second=self.predicted / max(seconds, 1e-9),
            state_bytes=state_bytes,
            how=how,
            by_position=[self._bucket(int(place)) for place in np.flatnonzero(self.sums["count"])],
        )

    def _bucket(self, place: int) -> Bucket:
        count, nats, right, size = (float(self.sums[name][place]) for name in ("count", "nats", "right", "bytes"))
        return Bucket(
            start=0 if place == 0 else FIRST_BUCKET << place - 1,
            stop=FIRST_BUCKET << place,
            predicted=int(count),
            loss=nats / count,
            accuracy=right / count,
            bits_per_byte=_per_byte(nats, size),
        )


def _per_byte(nats: float, size: float) -> float | None:
    return nats / math.log(2) / size if size else None


