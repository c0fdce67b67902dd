"""Linear attention over features against its definition, formed in the logarithm in float64."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.favor.features import orthogonal_gaussian, softmax_exponents
from subquadratic.attention.favor.formula import (
    causal_linear_attention,
    linear_attention_reference,
    read_features,
    read_with_queries,
    summarise_features,
)
from subquadratic.attention.favor.op import causal_favor
from subquadratic.attention.favor.state import FeatureState
from subquadratic.core.numerics import EMPTY


def exponents(batch: int, heads: int, length: int, features: int, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys = torch.randn(2, batch, heads, length, features, dtype=torch.float64) * spread
    return queries, keys, torch.randn(batch, heads, length, 5, dtype=torch.float64)


def scaled(log_queries: Tensor) -> Tensor:
    return (log_queries - log_queries.amax(dim=-1, keepdim=True)).exp()


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), chunk=st.integers(1, 45), features=st.integers(1, 12), seed=st.integers(0, 10**6), masked=st.booleans())
def test_causal_equals_the_definition(length: int, chunk: int, features: int, seed: int, masked: bool) -> None:
    torch.manual_seed(seed)
    queries, keys, values = exponents(2, 2, length, features)
    mask = torch.rand(2, length) > 0.3 if masked else None
    output, _ = causal_linear_attention(scaled(queries), keys, values, mask=mask, chunk=chunk)
    expected = linear_attention_reference(queries, keys, values, causal=True, mask=mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=5), chunk=st.integers(1, 32))
def test_pieces_equal_the_whole(cuts: list[int], chunk: int) -> None:
    torch.manual_seed(0)
    queries, keys, values = exponents(1, 2, 30, 7)
    mask = torch.rand(1, 30) > 0.2
    options = {"feature_epsilon": 1e-2, "denominator_epsilon": 1e-3, "chunk": chunk}
    whole, last = causal_linear_attention(scaled(queries), keys, values, mask=mask, **options)
    state, parts = None, []
    borders = [0, *sorted(set(cuts)), 30]
    for a, b in itertools.pairwise(borders):
        part, state = causal_linear_attention(
            scaled(queries)[:, :, a:b], keys[:, :, a:b], values[:, :, a:b], state, mask=mask[:, a:b], **options
        )
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-9, atol=1e-10)
    for a, b in zip(state.tensors(), last.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_bidirectional_equals_the_definition() -> None:
    queries, keys, values = exponents(2, 3, 17, 9)
    mask = torch.rand(2, 17) > 0.3
    output = read_features(queries, summarise_features(keys, values, mask))
    expected = linear_attention_reference(queries, keys, values, causal=False, mask=mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_plain_features_need_no_exponent(causal: bool) -> None:
    queries, keys, values = (tensor.abs() for tensor in exponents(2, 2, 21, 6))
    expected = linear_attention_reference(queries.log(), keys.log(), values, causal=causal)
    if causal:
        output, _ = causal_linear_attention(queries, keys, values, exponents=False, chunk=8)
    else:
        output = read_with_queries(queries, summarise_features(keys, values, exponents=False))
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_feature_epsilon_is_relative_to_the_running_maximum(chunk: int) -> None:
    queries, keys, values = exponents(1, 1, 13, 4)
    epsilon = 0.05
    output, _ = causal_linear_attention(scaled(queries) + epsilon, keys, values, feature_epsilon=epsilon, chunk=chunk)
    for i in range(13):
        seen = (keys[..., : i + 1, :] - keys[..., : i + 1, :].amax()).exp() + epsilon
        weights = (scaled(queries)[..., i, :] + epsilon) @ seen[0, 0].T
        expected = weights / weights.sum() @ values[0, 0, : i + 1]
        torch.testing.assert_close(output[0, 0, i], expected[0, 0] if expected.dim() > 1 else expected, rtol=1e-9, atol=1e-10)


def test_feature_epsilon_needs_a_state_that_knows_the_values() -> None:
    queries, keys, values = exponents(1, 1, 6, 3)
    _, state = causal_linear_attention(scaled(queries), keys, values)
    with pytest.raises(ValueError, match="feature_epsilon reads the sum and number of values"):
        causal_linear_attention(scaled(queries), keys, values, state, feature_epsilon=0.1)
    with pytest.raises(ValueError, match="feature_epsilon reads the sum and number of values"):
        read_with_queries(scaled(queries), state, feature_epsilon=0.1)


@pytest.mark.parametrize(("width", "spread"), [(64, 1.0), (64, 4.0), (128, 4.0)])
def test_accurate_in_float32_where_plain_exponentials_overflow(width: int, spread: float) -> None:
    projection = orthogonal_gaussian(128, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k = torch.randn(2, 1, 2, 96, width, dtype=torch.float64) * spread
    values = torch.randn(1, 2, 96, 16, dtype=torch.float64)
    log_q, log_k = softmax_exponents(q, projection)[0], softmax_exponents(k, projection)[0]
    expected = linear_attention_reference(log_q, log_k, values, causal=True)
    output, _ = causal_linear_attention(scaled(log_q).float(), log_k.float(), values.float())
    error = (output - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 2e-4


def test_gradients_equal_the_definitions() -> None:
    queries, keys, values = (tensor.requires_grad_() for tensor in exponents(1, 2, 19, 5, spread=1.0))
    weights = torch.randn(1, 2, 19, 5, dtype=torch.float64)
    output, _ = causal_linear_attention(queries.exp(), keys, values, chunk=8)
    found = torch.autograd.grad((output * weights).sum(), (queries, keys, values))
    expected = torch.autograd.grad(
        (linear_attention_reference(queries, keys, values, causal=True) * weights).sum(), (queries, keys, values)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_the_state_has_gradients_too() -> None:
    queries, keys, values = exponents(1, 1, 6, 3, spread=1.0)
    _, state = causal_linear_attention(queries.exp(), keys, values)

    def run(total: Tensor, weight: Tensor) -> Tensor:
        moved = FeatureState(total, weight, state.maximum)
        return causal_linear_attention(queries.exp(), keys, values, moved, chunk=4)[0]

    assert torch.autograd.gradcheck(run, (state.total.requires_grad_(), state.weight.requires_grad_()))


def test_memory_has_no_tensor_of_length_features_width() -> None:
    length, features, width = 256, 32, 32
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal biggest
            result = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, Tensor):
                    biggest = max(biggest, tensor.numel())
            return result

    queries, keys = torch.randn(2, 1, 1, length, features).requires_grad_()
    with Watch():
        output, _ = causal_linear_attention(queries.exp(), keys, torch.randn(1, 1, length, width), chunk=64)
        output.sum().backward()
    assert biggest < length * features * width / 4


def test_shapes_that_disagree_are_named() -> None:
    queries, keys, values = exponents(1, 1, 6, 3)
    with pytest.raises(ValueError, match="must agree"):
        causal_linear_attention(queries, keys[:, :, :5], values)
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        causal_linear_attention(queries, keys, values, chunk=0)


@pytest.mark.parametrize("written_out", [True, False])
def test_a_maximum_means_nothing_to_features_that_are_no_exponents(written_out: bool) -> None:
    """A state that says EMPTY, as a new one does and one that has grown token by token, is worth as much as any."""
    torch.manual_seed(0)
    queries, keys = (torch.rand(2, 3, 9, 5, dtype=torch.float64) for _ in range(2))
    values = torch.randn(2, 3, 9, 4, dtype=torch.float64)

    def attend(here: slice, state: FeatureState | None) -> tuple[Tensor, FeatureState]:
        q, k, v = (x[:, :, here] for x in (queries, keys, values))
        if written_out:
            return causal_linear_attention(q, k, v, state, exponents=False)
        return causal_favor(q, k, v, None, state)

    whole, _ = attend(slice(None), None)
    _, state = attend(slice(4), None)
    for maximum in (EMPTY, 0.0, 50.0):
        given = dataclasses.replace(state, maximum=torch.full_like(state.maximum, maximum))
        torch.testing.assert_close(attend(slice(4, None), given)[0], whole[:, :, 4:])
