"""Errors of forecasts against those computed by hand."""

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic.data import Binning
from subquadratic.data.binning import Binned
from subquadratic.evaluation.forecast import forecast_errors

SIZES = {"dim": 16, "depth": 1, "heads": 2}
SERIES = 50 + np.cumsum(np.random.default_rng(0).normal(size=60))


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("kind", ["transformer", "perceiver_ar"])
def test_mean_and_median_of_each_window(difference: bool, kind: str) -> None:
    torch.manual_seed(0)
    bins = Binning(bins=8, difference=difference).fit(SERIES[:50])
    config = sq.TransformerConfig(**SIZES) if kind == "transformer" else sq.PerceiverARConfig(**SIZES, latents=4)
    model = sq.LanguageModel(config, vocab_size=bins.vocab_size).eval()
    context, advance = 10, 9 if kind == "transformer" else 4
    values = np.concatenate([SERIES, [np.nan], SERIES[:5]])  # two documents
    series = Binned(values, bins)
    absolute, squared, places = [], [], []
    start, done = 0, 10 - advance
    while done < len(values):
        start = min(start, len(values) - context)
        with torch.no_grad():
            logits = model(torch.from_numpy(series[start : start + context].astype(np.int64))[None, :-1])[0]
        for place in range(done, start + context):
            shares = logits[place - (start + context)][:8].double().softmax(0).numpy()
            base = values[place - 1] if difference else 0.0
            if not np.isnan(values[place]) and not np.isnan(values[place - 1]):
                median = bins.centers[int(np.argmax(np.cumsum(shares) >= 0.5))]
                absolute.append(abs(base + median - values[place]))
                squared.append((base + shares @ bins.centers - values[place]) ** 2)
                places.append(place)
        done, start = start + context, start + advance
    found = forecast_errors(model, [series], context=context, batch_size=3)
    assert found.count == len(places)
    assert found.mae == pytest.approx(np.mean(absolute), rel=1e-5)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(squared)), rel=1e-5)
    steps = np.array([values[place] - values[place - 1] for place in places])
    assert found.last_value_mae == pytest.approx(np.abs(steps).mean())
    binned = steps if difference else values[places]
    assert found.outside == pytest.approx(np.mean((binned < bins.lowest) | (binned > bins.highest)))


def test_a_single_number_cannot_be_forecast() -> None:
    bins = Binning(bins=4).fit(SERIES)
    model = sq.LanguageModel(sq.TransformerConfig(**SIZES), vocab_size=bins.vocab_size)
    with pytest.raises(ValueError, match="too short: there is nothing to forecast"):
        forecast_errors(model, [Binned(SERIES[:1], bins)], context=10)
