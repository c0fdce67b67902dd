"""How many multiply-adds the C kernels' operators do, by name: for whoever counts the operations of a model.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, V width of values, M features, C chunk length,
R slots.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .operators import CHUNK


def _favor_causal(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    features, width, values_width = len(projection), queries.shape[3], values.shape[3]
    return _positions(values) * (2 * features * (width + values_width) + CHUNK * (features + values_width))


def _favor_causal_backward(
    d_output: Tensor, d_total: Tensor, d_weight: Tensor, queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any
) -> int:
    features, width, values_width = len(projection), queries.shape[3], values.shape[3]
    return _positions(values) * (4 * features * (width + values_width) + CHUNK * (3 * features + 2 * values_width))


def _favor_step(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, live: Tensor | None, projection: Tensor, *_: Any
) -> int:
    return _positions(values) * 2 * len(projection) * (queries.shape[3] + values.shape[3])


def _favor_summarise(keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return _positions(keys) * len(projection) * (keys.shape[3] + values.shape[3])


def _favor_summarise_backward(d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return 2 * _favor_summarise(keys, values, projection)


def _favor_read(queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return _positions(queries) * len(projection) * (queries.shape[3] + total.shape[3])


def _favor_read_backward(d_output: Tensor, queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return 2 * _favor_read(queries, projection, total)


def _softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return _positions(queries) * keys.shape[2] * (keys.shape[3] + values.shape[3])


def _softmax_attention_backward(d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return _positions(queries) * keys.shape[2] * (3 * keys.shape[3] + 2 * values.shape[3])


def _feed_forward(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, *_: Any) -> int:
    return len(x) * (expand.numel() + contract.numel())


def _feed_forward_backward(
    d_y: Tensor, x: Tensor, expand: Tensor, contract: Tensor, inner: Tensor, wants_x: bool, wants_weights: bool
) -> int:
    expanding, contracting = expand.numel(), contract.numel()
    return len(x) * (contracting + wants_x * expanding + wants_weights * (expanding + contracting))


def _slot_attention(queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, *_: Any) -> int:
    slots, width, values_width = key_weights.shape[-1], queries.shape[3], values.shape[3]
    return _positions(queries) * (slots * (2 * width + 2 * values_width + 2 * CHUNK) + CHUNK * (width + values_width))


def _slot_attention_backward(
    d_output: Tensor, d_keys: Tensor, d_values: Tensor, queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, *_: Any
) -> int:
    slots, width, values_width = key_weights.shape[-1], queries.shape[3], values.shape[3]
    return _positions(queries) * (slots * (6 * (width + values_width) + 6 * CHUNK) + CHUNK * (3 * width + 2 * values_width))


def _linear_maps(xs: list[Tensor], weights: list[Tensor], *_: Any) -> int:
    return len(xs[0]) * sum(weight.numel() for weight in weights)


def _sums_of_outer_products(others: list[Tensor], xs: list[Tensor], *_: Any) -> int:
    return sum(other.numel() * x.shape[1] for other in others for x in xs)


def _pool(x: Tensor, *_: Any) -> int:
    return _positions(x) * (x.shape[1] + 1) * x.shape[3]


def _pool_backward(d_mean: Tensor, d_turned: Tensor | None, d_more: Tensor | None, x: Tensor, *_: Any) -> int:
    return _positions(x) * (2 * x.shape[1] + 1) * x.shape[3]


def _running_mean(logits: Tensor, values: Tensor, *_: Any) -> int:
    return values.numel()


def _running_mean_backward(d_output: Tensor, *_: Any) -> int:
    return 2 * d_output.numel()


def _feedback_work(x: Tensor, multiply_adds: int) -> int:
    return multiply_adds


def _positions(x: Tensor) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2]


# A causal call of exact attention counts as a full one, as PyTorch counts its own.
MULTIPLY_ADDS: dict[str, Callable[..., int]] = {
    "subquadratic::favor_causal": _favor_causal,
    "subquadratic::favor_causal_backward": _favor_causal_backward,
    "subquadratic::favor_step": _favor_step,
    "subquadratic::favor_summarise": _favor_summarise,
    "subquadratic::favor_summarise_backward": _favor_summarise_backward,
    "subquadratic::favor_read": _favor_read,
    "subquadratic::favor_read_backward": _favor_read_backward,
    "subquadratic::softmax_attention": _softmax_attention,
    "subquadratic::softmax_attention_backward": _softmax_attention_backward,
    "subquadratic::slot_attention": _slot_attention,
    "subquadratic::slot_attention_backward": _slot_attention_backward,
    "subquadratic::linear_maps": _linear_maps,
    "subquadratic::sums_of_outer_products": _sums_of_outer_products,
    "subquadratic::pool": _pool,
    "subquadratic::pool_backward": _pool_backward,
    "subquadratic::running_mean": _running_mean,
    "subquadratic::running_mean_backward": _running_mean_backward,
    "subquadratic::feed_forward": _feed_forward,
    "subquadratic::feed_forward_backward": _feed_forward_backward,
    "subquadratic::feedback_work": _feedback_work,
}
