"""For every operator that calls a C kernel: arguments of given sizes that it can take, and what else it could be handed by mistake."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subquadratic.attention.additive import native_mean, native_running
from subquadratic.attention.favor import native_causal, native_layers, native_step, native_summary
from subquadratic.attention.feedback import native as feedback
from subquadratic.attention.low_rank import native as slots
from subquadratic.attention.softmax import native as softmax
from subquadratic.kernels.native.library import has_matrix_unit
from subquadratic.layers.feed_forward import few_rows as feed_forward_few_rows
from subquadratic.layers.feed_forward import native as feed_forward
from subquadratic.layers.linear import few_rows
from subquadratic.layers.linear import native as linear
from subquadratic.layers.norms import native as add_norm
from subquadratic.layers.rotary import native as rotary

# Which make the operators.
MODULES = (
    add_norm, feed_forward, feed_forward_few_rows, feedback, few_rows, linear, native_causal, native_layers, native_mean, native_running,
    native_step, native_summary, rotary, slots, softmax,
)  # fmt: skip
Arguments = list[Any]


class Sizes(NamedTuple):
    """B rows, H heads, N length, S keys, K width, V width of values, M features or slots, F inner width; and what else there is."""

    batch: int = 2
    heads: int = 3
    length: int = 70
    keys: int = 75
    width: int = 6
    value_width: int = 5
    features: int = 9
    inner: int = 24
    masked: bool = True
    turned: bool = True
    apart: bool = True  # rows apart, as maps before heads give them


TRITON = {name + way for name in ("gated_linear_attention", "causal_slot_attention", "running_softmax_mean") for way in ("", "_backward")}


def operators() -> set[str]:
    """Names of all there are."""
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    found = {name.removeprefix("subquadratic::") for name in names if name.startswith("subquadratic::")}
    found -= TRITON | {"projection"}  # there once another test has imported them, or subquadratic.hf
    return found if has_matrix_unit() else found - {"linear_maps", "sums_of_outer_products"}


def call(name: str, arguments: Arguments) -> tuple[Tensor, ...]:
    """What an operator gives."""
    found = getattr(torch.ops.subquadratic, name)(*arguments)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def has_nan(name: str, found: tuple[Tensor, ...]) -> bool:
    """Whether a NaN is among what an operator gives, but for the padding of what ``feed_forward`` keeps, which nobody reads."""
    return any(x.isnan().any() for x in (found[:1] if name == "feed_forward" else found))


def arguments_of(name: str, sizes: Sizes) -> Arguments:
    """Arguments that an operator takes; of a backward, from what its forward gives."""
    forward = name.removesuffix("_backward")
    given = _FORWARD[forward](sizes)
    return _BACKWARD[name](given, call(forward, given), sizes) if name != forward else given


def without_memory(arguments: Arguments) -> Arguments:
    """The same, of tensors that have a shape alone."""
    if isinstance(arguments, list):
        return [without_memory(x) for x in arguments]
    return arguments.to("meta") if isinstance(arguments, Tensor) else arguments


def tensors_in(arguments: Arguments) -> Iterator[tuple[Any, Tensor, Callable[[Tensor], Arguments]]]:
    """Where each tensor stands among arguments, the tensor, and how to put another in its place."""
    for index, value in enumerate(arguments):
        if isinstance(value, Tensor):
            yield index, value, lambda x, index=index: [*arguments[:index], x, *arguments[index + 1 :]]
        elif isinstance(value, list):
            for at, x in enumerate(value):
                if isinstance(x, Tensor):
                    yield (
                        (index, at),
                        x,
                        lambda y, index=index, at=at, value=value: [
                            *arguments[:index],
                            [*value[:at], y, *value[at + 1 :]],
                            *arguments[index + 1 :],
                        ],
                    )


def wrong_shapes(x: Tensor) -> Iterator[tuple[int | None, Tensor]]:
    """The tensor with an axis longer by one or shorter by one, with one more, and with one less: which axis, and the tensor."""
    for axis in range(x.dim()):
        size = x.shape[axis]
        yield axis, x.index_select(axis, torch.arange(size + 1).clamp_max(max(size - 1, 0))) if size else x.new_zeros(_longer(x, axis))
        if size > 1:
            yield axis, x.narrow(axis, 0, size - 1).contiguous()
    yield None, x[None].contiguous()
    if x.dim() and x.shape[0]:
        yield None, x[0].contiguous()


def _longer(x: Tensor, axis: int) -> list[int]:
    return [size + (at == axis) for at, size in enumerate(x.shape)]


def other_kinds(x: Tensor) -> Iterator[Tensor]:
    """The tensor in every other dtype, and without memory."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.uint8, torch.complex64):
        if dtype is not x.dtype:
            yield x.to(dtype)
    yield x.to("meta")


def other_layouts(x: Tensor) -> Iterator[Tensor]:
    """The same numbers, lying apart in rows, in every other order of axes, and all at one place where they are alike."""
    yield x.repeat_interleave(2, dim=-1)[..., ::2]
    if x.dim() > 1:
        yield x.mT.contiguous().mT
        yield torch.cat((x, x), dim=-1)[..., : x.shape[-1]]
        yield x.transpose(0, -1).contiguous().transpose(0, -1)


def _heads(s: Sizes, length: int, width: int) -> Tensor:
    if s.apart:
        return torch.randn(s.batch, length, s.heads, width).transpose(1, 2)
    return torch.randn(s.batch, s.heads, length, width)


def _mask(s: Sizes, length: int) -> Tensor | None:
    return torch.rand(s.batch, length) > 0.3 if s.masked else None


def _turns(s: Sizes, length: int) -> Tensor | None:
    return torch.randn(s.batch, 1, length, s.width) if s.turned and s.width % 2 == 0 else None


def _state(s: Sizes, rows: int) -> Arguments:
    total, weight = torch.randn(rows, s.heads, s.features, s.value_width), torch.rand(rows, s.heads, s.features) + 0.1
    return [total, weight, torch.zeros(rows, s.heads, 1)]


def _features(s: Sizes, keep: bool = True) -> Arguments:
    q, k, v = _heads(s, s.length, s.width), _heads(s, s.length, s.width), _heads(s, s.length, s.value_width)
    return [q, k, v, torch.randn(s.features, s.width), _mask(s, s.length), *_state(s, s.batch), [], keep]


def _step(s: Sizes) -> Arguments:
    q, k, v = (torch.randn(s.batch, s.heads, 1, width) for width in (s.width, s.width, s.value_width))
    return [q, k, v, _turns(s, 1), _mask(s, 1), torch.randn(s.features, s.width), *_state(s, s.batch)]


def _summary(s: Sizes) -> Arguments:
    return [_heads(s, s.length, s.width), _heads(s, s.length, s.value_width), torch.randn(s.features, s.width), _mask(s, s.length)]


def _read(s: Sizes) -> Arguments:
    total, weight, _ = _state(s, s.batch)
    return [_heads(s, s.length, s.width), torch.randn(s.features, s.width), total, weight, torch.zeros_like(weight)]


def _attention(s: Sizes) -> Arguments:
    keys = max(s.keys, s.length) if s.masked else s.keys
    return [_heads(s, s.length, s.width), _heads(s, keys, s.width), _heads(s, keys, s.value_width), s.masked]


def _window(s: Sizes) -> Arguments:
    q, k, v = _heads(s, s.length, s.width), _heads(s, s.length, s.width), _heads(s, s.length, s.value_width)
    return [q, k, v, s.features, s.masked, s.turned, torch.randint(-1, s.length + 2, (s.batch,)) if s.apart else None]


def _slots(s: Sizes) -> Arguments:
    q, k, v = _heads(s, s.length, s.width), _heads(s, s.length, s.width), _heads(s, s.length, s.value_width)
    e, f = torch.randn(2, s.batch if s.masked else 1, s.length, s.features).unbind(0)
    before = [torch.randn(s.batch, s.heads, s.features, width) for width in (s.width, s.value_width)]
    return [q, k, v, e, f, *before, True]


def _turned_mean(s: Sizes) -> Arguments:
    weights = torch.randn(s.heads, s.heads * s.width)
    return [_heads(s, s.length, s.width), _turns(s, s.length), weights, _mask(s, s.length), s.masked, 0.5, True]


def _mean(s: Sizes) -> Arguments:
    queries = _heads(s, s.length, s.width) if s.turned else None
    state = [torch.zeros(s.batch, s.heads, 1), torch.rand(s.batch, s.heads, 1), torch.randn(s.batch, s.heads, s.width)]
    given = [torch.randn(s.batch, s.heads, s.length), _heads(s, s.length, s.width), queries]
    return [*given, _turns(s, s.length), _mask(s, s.length), *state, True]


def _norm(s: Sizes) -> Arguments:
    x, delta = torch.randn(2, s.length, s.inner).unbind(0)
    return [x, delta if s.masked else None, torch.randn(s.inner), torch.randn(s.inner), 1e-5]


def _feed_forward(s: Sizes) -> Arguments:
    wide = s.inner * (2 if s.masked else 1)
    expand, contract = torch.randn(wide, s.width), torch.randn(s.value_width, s.inner)
    return [torch.randn(s.length, s.width), expand, torch.randn(wide), contract, torch.randn(s.value_width), True]


def _few_maps(s: Sizes) -> Arguments:
    x = torch.randn(s.batch, s.length, s.width)
    weights, scales = _maps_of([torch.randn(out, s.width) for out in (s.inner, s.features)], in_8_bits=s.turned)
    return [x, weights, scales, [torch.randn(s.inner) if s.masked else None, None]]


def _few_forward(s: Sizes) -> Arguments:
    return _feed_forward(s)[:-1]


def _in_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.randint(-127, 128, weight.shape, dtype=torch.int8), torch.rand(len(weight)) / 100


def _maps_of(weights: list[Tensor], *, in_8_bits: bool) -> tuple[list[Tensor], list[Tensor | None]]:
    found: list[Any] = [_in_8_bits(weight) if in_8_bits else (weight, None) for weight in weights]
    return [weight for weight, _ in found], [scale for _, scale in found]


def _few_forward_int8(s: Sizes) -> Arguments:
    x, expand, expand_bias, contract, contract_bias = _few_forward(s)
    return [x, *_in_8_bits(expand), expand_bias, *_in_8_bits(contract), contract_bias]


def _layers(s: Sizes) -> Arguments:
    """Two layers of a Performer, of unlike features and inner widths."""
    dim, inside, width = s.value_width, s.heads * s.width, s.width
    weights, scales, biases, state = [], [], [], []
    for features, wide in ((s.features, s.inner), (s.features + 2, s.inner + 1)):
        expanded = wide * (2 if s.masked else 1)
        shapes = [(dim,), *[(inside, dim)] * 3, (features, width), (dim, inside), (dim,), (expanded, dim), (dim, wide)]
        made = [torch.randn(shape) for shape in shapes]
        for name, weight in zip(native_layers.WEIGHTS, made, strict=True):
            found, scale = _in_8_bits(weight) if s.turned and name in native_layers.MAPS else (weight, None)
            weights.append(found)
            scales.append(scale)
        biases += [torch.randn(size) for size in (dim, inside, inside, inside, dim, dim, expanded, dim)]
        state += [torch.randn(s.batch, s.heads, features, width), torch.rand(s.batch, s.heads, features) + 0.1]
        state.append(torch.zeros(s.batch, s.heads, 1))
    return [torch.randn(s.batch, dim), _turns(s, 1), weights, scales, biases, state, s.heads, [1e-5] * 4]


def _product(s: Sizes) -> Arguments:
    width = s.width + s.width % 2
    return [_heads(s, s.length, width), torch.randn(s.length if s.masked else 1, width), s.turned]


def _maps(s: Sizes) -> Arguments:
    xs = [torch.randn(s.length, width + 1)[:, 1:] for width in (s.width, s.value_width)]
    weights = [torch.randn(out, x.shape[1]) if s.masked else torch.randn(x.shape[1], out).T for x in xs for out in (s.inner, s.features)]
    return [xs, weights, [torch.randn(s.inner), None], torch.randn(s.length, s.inner) if s.turned else None]


def _sums(s: Sizes) -> Arguments:
    others = [torch.randn(s.length, s.inner), torch.randn(s.length, s.features)]
    return [others, [torch.randn(s.length, width + 1)[:, 1:] for width in (s.width, s.value_width)], [True, False]]


def _work(s: Sizes) -> Arguments:
    return [torch.randn(s.length, s.batch, s.inner), 1000]


_FORWARD: dict[str, Callable[[Sizes], Arguments]] = {
    "favor_causal": _features, "favor_step": _step, "favor_summarise": _summary, "favor_read": _read, "softmax_attention": _attention,
    "window_attention": _window,
    "slot_attention": _slots, "turned_mean": _turned_mean, "running_mean": _mean, "add_norm": _norm, "feed_forward": _feed_forward,
    "complex_product": _product, "linear_maps": _maps, "sums_of_outer_products": _sums,
    "feedback_work": _work, "few_rows_maps": _few_maps, "feed_forward_few_rows": _few_forward, "favor_layers_step": _layers,
    "feed_forward_few_rows_int8": _few_forward_int8,
}  # fmt: skip


def _like(x: Tensor) -> Tensor:
    return torch.randn_like(x)


def _causal_back(a: Arguments, y: tuple[Tensor, ...], s: Sizes) -> Arguments:
    return [_like(y[0]), _like(y[1]), _like(y[2]), *a[:5], y[0], y[3], a[8], *y[4:]]


def _norm_back(a: Arguments, y: tuple[Tensor, ...], s: Sizes) -> Arguments:
    return [_like(y[1]) if s.masked else None, _like(y[1]), y[0] if s.masked else a[0], a[2], y[2]]


def _mean_back(a: Arguments, y: tuple[Tensor, ...], s: Sizes) -> Arguments:
    return [_like(y[0]), _like(y[2]), _like(y[3]), *a[:5], y[4]]


def _turned_mean_back(a: Arguments, y: tuple[Tensor, ...], s: Sizes) -> Arguments:
    more = [_like(y[1]), _like(a[0])] if s.masked else [None, None]
    return [_like(y[0]), *more, *a[:6], y[0], y[2], y[3]]


_BACKWARD: dict[str, Callable[[Arguments, tuple[Tensor, ...], Sizes], Arguments]] = {
    "favor_causal_backward": _causal_back,
    "favor_summarise_backward": lambda a, y, s: [_like(y[0]), _like(y[1]), *a, y[2]],
    "favor_read_backward": lambda a, y, s: [_like(y[0]), *a, *y],
    "softmax_attention_backward": lambda a, y, s: [_like(y[0]), *a, *y],
    "window_attention_backward": lambda a, y, s: [_like(y[0]), *a, *y],
    "slot_attention_backward": lambda a, y, s: [_like(y[0]), _like(y[1]), _like(y[2]), *a[:5], y[3]],
    "turned_mean_backward": _turned_mean_back,
    "running_mean_backward": _mean_back,
    "add_norm_backward": _norm_back,
    "feed_forward_backward": lambda a, y, s: [_like(y[0]), a[0], a[1], a[3], y[1], True, True],
}
NAMES = sorted({*_FORWARD, *_BACKWARD})
