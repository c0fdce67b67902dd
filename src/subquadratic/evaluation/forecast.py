"""How far a model's one-step forecasts of a series are off, in the units of the data.

The forecast of a number is made from the numbers before it in a window, as training validates. Its mean, over the bins by their
probability, is what the root mean square error is of; its median, that the mean absolute error is of. Beside it stands the forecast
that needs no model: the number before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.binning import Binned
from ..heads.language_model import LanguageModel
from ..layers.modes import evaluating
from .windows import reach


@dataclass(frozen=True, kw_only=True)
class ForecastScore:
    """Errors of `count` one-step forecasts, in the units of the data: mean absolute (`mae`, of the median) and root mean square
    (`rmse`, of the mean), and those of repeating the last number. `outside` is the share of numbers (of changes, where the model
    forecasts these) beyond all that were seen in training, which the outermost bins stand for.
    """

    count: int
    context: int
    mae: float
    rmse: float
    last_value_mae: float
    last_value_rmse: float
    outside: float


@torch.no_grad()
def forecast_errors(model: LanguageModel, series: Sequence[Binned], *, context: int, batch_size: int = 8) -> ForecastScore:
    """The errors on the numbers of `series`, each part by itself.

    Args:
        model: causal; in eval mode while this lasts.
        series: of the model's own bins.
        context: numbers in a window.
        batch_size: windows side by side.

    Raises:
        ValueError: there is nothing to forecast.
    """
    sums = np.zeros(5)  # absolute and squared errors of the forecast and of the last number, and how many lie outside
    count = 0
    with evaluating(model):
        for part in series:
            for starts, length, wanted in _windows(model, len(part), context, batch_size):
                found = _errors(model, part, starts, length, wanted)
                sums += found.sum(axis=1)
                count += found.shape[1]
    if not count:
        raise ValueError("data: the series is too short: there is nothing to forecast")
    mean = (sums / count).tolist()
    rmse, last_rmse = math.sqrt(mean[1]), math.sqrt(mean[3])
    return ForecastScore(
        count=count, context=context, mae=mean[0], rmse=rmse, last_value_mae=mean[2], last_value_rmse=last_rmse, outside=mean[4]
    )


def _windows(model: LanguageModel, size: int, context: int, batch_size: int) -> list[tuple[list[int], int, int]]:
    """Batches of windows: where they start, their length, and how many of their last numbers are forecast. Every number but the first is,
    once; of a model that forecasts the last of a window alone, so are those before them in the first one not."""
    length = min(context, size)
    if length < 2:
        return []
    wanted = min(reach(model, length), length - 1)
    starts = list(range(0, size - length + 1, wanted))
    found = [(starts[first : first + batch_size], length, wanted) for first in range(0, len(starts), batch_size)]
    rest = size - (starts[-1] + length)
    return [*found, ([size - length], length, rest)] if rest else found


def _errors(model: LanguageModel, part: Binned, starts: list[int], length: int, wanted: int) -> NDArray[np.float64]:
    """(5, forecasts): see `forecast_errors`."""
    bins = part.tokenizer
    tokens = np.stack([part[start : start + length].astype(np.int64) for start in starts])
    device = next(model.parameters()).device
    logits = model(torch.from_numpy(tokens[:, :-1]).to(device))[:, -wanted:, : bins.size].float()
    mean, median = _middle(logits, torch.from_numpy(bins.centers).to(device))
    actual, before = (
        np.stack([np.asarray(part.values[start + length - wanted - back : start + length - back]) for start in starts]) for back in (0, 1)
    )
    base = before if bins.difference else 0.0
    binned = actual - base
    outside = (binned < bins.lowest) | (binned > bins.highest)
    errors = (base + median - actual, base + mean - actual, before - actual)
    known = ~np.isnan(actual) & ~np.isnan(before)  # not what separates documents, nor the first number of one
    return np.stack([np.abs(errors[0]), errors[1] ** 2, np.abs(errors[2]), errors[2] ** 2, outside.astype(float)])[:, known]


def _middle(logits: Tensor, centers: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and median of the forecasts (B, N, bins), both (B, N)."""
    shares = logits.double().softmax(dim=-1)
    half = (shares.cumsum(dim=-1) < 0.5).sum(dim=-1).clamp_max(len(centers) - 1)
    return (shares @ centers).cpu().numpy(), centers[half].cpu().numpy()
