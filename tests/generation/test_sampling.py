"""Sampling against its definition, by brute force, and against transformers where both do the same."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import subquadratic.generation.sampling as sampling
from subquadratic.generation import Sampling, filtered, keep_min_p, keep_top_k, keep_top_p, penalise, sample
from subquadratic.generation.repetition import Recent

rows = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12)
apart = st.lists(st.integers(-128, 128), min_size=2, max_size=12, unique=True).map(lambda row: [value / 16 for value in row])
fast = settings(max_examples=60, deadline=None)


def kept(logits: Tensor) -> list[bool]:
    return (logits[0] > -torch.inf).tolist()


@fast
@given(rows, st.floats(0.01, 0.99))
def test_min_p_keeps_what_its_definition_says(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    probabilities = logits.double().softmax(-1)[0]
    near = (probabilities / probabilities.max() - p).abs() < 1e-5
    expected = (probabilities >= p * probabilities.max()) | (probabilities == probabilities.max())
    found = torch.tensor(kept(keep_min_p(logits, p)))
    assert (found == expected)[~near].all()


@fast
@given(rows, st.integers(1, 14))
def test_top_k_keeps_what_its_definition_says(row: list[float], k: int) -> None:
    border = sorted(row, reverse=True)[min(k, len(row)) - 1]
    assert kept(keep_top_k(torch.tensor([row]), k)) == [value >= border for value in torch.tensor(row).tolist()]


@fast
@given(rows, st.floats(0.01, 0.99))
@example([0.0, 0.0, 0.0, 1e-12], 0.5)  # equally likely in float32
def test_top_p_keeps_the_fewest_that_reach_it(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    probabilities = logits.double().softmax(-1)[0]
    inside = torch.tensor(kept(keep_top_p(logits, p)))
    chosen = probabilities[inside]
    assert len(chosen) >= 1
    assert chosen.sum() >= p - 1e-6
    assert chosen.sum() - chosen.min() < p + 1e-6  # without its least likely it would not reach p
    assert chosen.min() >= max(probabilities[~inside].tolist(), default=0.0)


@fast
@given(apart, st.floats(0.1, 3), st.integers(1, 12), st.floats(0.05, 1), st.floats(0, 0.9))
def test_the_filters_together_are_those_of_transformers(row: list[float], temperature: float, k: int, top_p: float, min_p: float) -> None:
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.tensor([row])
    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(k), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)]
    theirs = LogitsProcessorList(warpers)
    ours = filtered(logits, temperature=temperature, top_k=k, top_p=top_p, min_p=min_p).softmax(-1)
    expected = theirs(torch.zeros(1, 1, dtype=torch.int64), logits.clone()).softmax(-1)
    if bool(((ours > 0) == (expected > 0)).all()):
        torch.testing.assert_close(ours, expected)
        return
    # They may differ only in a token whose border falls on rounding.
    probabilities = (logits.double() / temperature).softmax(-1)[0].sort(descending=True).values[:k]
    nucleus = probabilities.cumsum(0) / probabilities.sum() - top_p
    assert bool((nucleus.abs() < 1e-5).any() or ((probabilities / probabilities[0] - min_p).abs() < 1e-5).any())


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.3}, {"temperature": 1.5, "top_k": 5, "top_p": 0.9}]
)
@pytest.mark.parametrize("many", [0, 4096])
def test_frequencies_follow_the_filtered_softmax(many: int, options: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to draw: a random number a row, for many tokens, and one a token."""
    monkeypatch.setattr(sampling, "MANY", many)
    draws, logits = 40_000, torch.randn(1, 8, generator=torch.Generator().manual_seed(3))
    drawn = sample(logits.expand(draws, -1), generator=torch.Generator().manual_seed(1), **options)
    counts = torch.bincount(drawn, minlength=8).double()
    expected = filtered(logits, **{"temperature": 1.0, **options}).double().softmax(-1)[0] * draws
    assert (counts[expected == 0] == 0).all()
    alive = expected > 0
    chi_square = ((counts - expected)[alive] ** 2 / expected[alive]).sum()
    degrees = int(alive.sum()) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 4


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.9999])
def test_large_nuclei_are_found_as_small_ones(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(3)) * 2
    expected = keep_top_p(logits, p)
    for few in (1, 4, 49):
        monkeypatch.setattr(sampling, "FEW", few)
        assert torch.equal(keep_top_p(logits, p), expected)


def test_what_has_no_probability_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a random number at either end."""
    monkeypatch.setattr(sampling, "MANY", 0)
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    for share, expected in ((0.0, 1), (1.0, 3)):
        monkeypatch.setattr(torch, "rand", lambda *shape, share=share, **_: torch.full(shape, share, dtype=torch.float64))
        assert sample(logits).item() == expected


@fast
@given(st.data())
def test_the_penalty_is_that_of_a_loop_over_each_row(data: st.DataObject) -> None:
    vocabulary, batch = 7, data.draw(st.integers(1, 3))
    pieces = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    window = data.draw(st.none() | st.integers(1, 8))
    penalty = data.draw(st.sampled_from([1.3, 0.7]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    recent = Recent(batch, vocabulary, window=window, device=torch.device("cpu"))
    history: list[list[int]] = [[] for _ in range(batch)]
    for length in pieces:
        tokens = torch.randint(0, vocabulary, (batch, length), generator=generator)
        mask = torch.rand(batch, length, generator=generator) < 0.6 if data.draw(st.booleans()) else None
        recent.add(tokens, mask)
        for row in range(batch):
            history[row] += [int(t) for i, t in enumerate(tokens[row]) if mask is None or mask[row, i]]
    logits = torch.randn(batch, vocabulary, generator=generator)
    expected = logits.clone()
    for row in range(batch):
        for token in set(history[row] if window is None else history[row][-window:]):
            value = float(logits[row, token])
            expected[row, token] = value / penalty if value > 0 else value * penalty
    torch.testing.assert_close(penalise(logits, recent.before(), penalty), expected)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("options", [{}, {"top_k": 2, "top_p": 0.5, "min_p": 0.5}])
def test_no_row_and_no_temperature_gives_nan(temperature: float, options: dict[str, float]) -> None:
    low, high = -torch.inf, torch.inf
    logits = torch.tensor([[low, low, low], [low, 3.0, low], [high, 0.0, low], [1e38, -1e38, 0.0], [0.0, 0.0, 0.0]])
    probabilities = filtered(logits, temperature=temperature, **options).softmax(-1)
    assert not probabilities.isnan().any()
    drawn = sample(logits, temperature=temperature, generator=torch.Generator().manual_seed(0), **options)
    assert drawn[1] == 1
    if temperature < 1:
        assert drawn[2:4].tolist() == [0, 0]


def test_nan_from_the_model_is_said() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="logits are NaN"):
            sample(torch.tensor([[0.0, torch.nan]]), temperature=temperature)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -1, "temperature must be at least 0"),
        ("temperature", math.nan, "temperature must be at least 0"),
        ("temperature", math.inf, "temperature must be at least 0"),
        ("temperature", "hot", "temperature must be at least 0"),
        ("top_k", 0, "top_k must be an integer of at least 1"),
        ("top_k", 2.5, "top_k must be an integer of at least 1"),
        ("top_p", 0, "top_p must be greater than 0"),
        ("top_p", 1.5, "top_p must be greater than 0"),
        ("min_p", -0.1, "min_p must be at least 0"),
        ("repetition_penalty", 0, "repetition_penalty must be greater than 0"),
        ("repetition_window", 0, "repetition_window must be an integer of at least 1"),
    ],
)
def test_values_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_banned_must_be_tokens() -> None:
    assert Sampling(banned=range(3, 5)).banned == (3, 4) and Sampling(banned=torch.tensor([1])).banned == (1,)
    for wrong in (3, "ab", [-1], [1.5], None):
        with pytest.raises(ValueError, match="banned must be a list of tokens"):
            Sampling(banned=wrong)  # type: ignore[arg-type]


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        Sampling.of({"temprature": 1.0})
    with pytest.raises(TypeError, match="did you mean 'eos_token'"):
        Sampling.of({"eos_tokens": 1})
