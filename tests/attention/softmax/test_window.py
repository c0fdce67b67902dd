"""Window attention against pair-by-pair definitions."""

import itertools

import pytest
import torch

from subquadratic.attention.softmax import window_blocks as window_parts
from subquadratic.attention.softmax.formula import softmax_attention_reference
from subquadratic.attention.softmax.window import empty_window, extend_window_attention, window_allowed_reference, window_attention
from subquadratic.attention.softmax.window_formula import windows_by_formula

CASES = [(length, window) for length in (1, 4, 5, 23) for window in (1, 4, 5, 30)]


def qkv(length: int) -> torch.Tensor:
    return torch.randn(3, 2, 2, length, 4, dtype=torch.float64) * 2


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "window"), CASES)
def test_equals_the_definition(length: int, window: int, causal: bool, sliding: bool) -> None:
    q, k, v = qkv(length)
    expected = softmax_attention_reference(q, k, v, window_allowed_reference(length, window, causal, sliding))
    torch.testing.assert_close(window_attention(q, k, v, window=window, causal=causal, sliding=sliding), expected)


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_count_real_tokens_only(causal: bool, sliding: bool) -> None:
    q, k, v = qkv(23)
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[0, :4], mask[1, 10:12] = False, False
    output = window_attention(q, k, v, window=5, causal=causal, sliding=sliding, mask=mask)
    for row in range(2):
        real = mask[row]
        allowed = window_allowed_reference(int(real.sum()), 5, causal, sliding)
        expected = softmax_attention_reference(q[row, :, real], k[row, :, real], v[row, :, real], allowed)
        torch.testing.assert_close(output[row, :, real], expected)
        assert not output[row, :, ~real].any()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("borders", [(0, 23), (0, 1, 2, 12, 23), (0, 11, 12, 13, 23)], ids=str)
def test_pieces_equal_the_whole(borders: tuple[int, ...], sliding: bool, masked: bool) -> None:
    q, k, v = qkv(23)
    mask = torch.ones(2, 23, dtype=torch.bool)
    if masked:
        mask[0, :4], mask[1, 10:12] = False, False
    given = mask if masked else None
    whole = window_attention(q, k, v, window=5, causal=True, sliding=sliding, mask=given)
    state, parts = empty_window(2, 2, 5, 4, dtype=torch.float64), []
    for a, b in itertools.pairwise(borders):
        piece = (tensor[:, :, a:b] for tensor in (q, k, v))
        part, state = extend_window_attention(*piece, state, sliding=sliding, mask=None if given is None else given[:, a:b])
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    assert state.keys.shape == (2, 2, 10, 4)  # constant, whatever the length


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [2, 7])
def test_gradients_by_differences(length: int, causal: bool, sliding: bool, masked: bool) -> None:
    inputs = [tensor[:, :1, :, :2].requires_grad_() for tensor in qkv(length).unbind()]
    mask = None
    if masked:
        mask = torch.rand(2, length) < 0.7
        mask[1] = False  # an empty row

    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        return window_attention(*inputs, window=3, causal=causal, sliding=sliding, mask=mask)

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads_apart", [True, False])
def test_equals_the_plain_formulation(
    heads_apart: bool, causal: bool, sliding: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run on CPUs; long enough for runs of several blocks, in each layout of heads."""
    monkeypatch.setattr(window_parts, "RUN_NUMBERS", 3 * 5 * 2 * 4)  # three blocks
    tensors = [torch.randn(2, 43, 2, 4, dtype=torch.float64).transpose(1, 2) for _ in range(3)]
    tensors = [(tensor.contiguous() if heads_apart else tensor).requires_grad_() for tensor in tensors]
    mask = torch.rand(2, 43) < 0.8 if masked else None
    arguments = {"window": 5, "causal": causal, "sliding": sliding, "mask": mask}
    output = window_attention(*tensors, **arguments)
    plain = windows_by_formula(*tensors, **arguments, dropout=0.0)
    torch.testing.assert_close(output, plain)
    direction = torch.randn_like(output)
    for a, b in zip(torch.autograd.grad(output, tensors, direction), torch.autograd.grad(plain, tensors, direction), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_what_is_masked_does_not_matter(causal: bool, sliding: bool) -> None:
    mask = torch.rand(2, 23) < 0.7
    inputs = qkv(23)
    damaged = inputs.masked_fill(~mask[:, None, :, None], torch.nan).requires_grad_()
    output, expected = (window_attention(*x, window=5, causal=causal, sliding=sliding, mask=mask) for x in (damaged, inputs))
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.square().sum(), damaged)
    assert gradient.isfinite().all() and not gradient.masked_fill(mask[:, None, :, None], 0.0).any()


@pytest.mark.parametrize("sliding", [True, False])
def test_the_future_and_other_rows_change_nothing(sliding: bool) -> None:
    inputs = qkv(23)
    changed = inputs.clone()
    changed[:, 0, :, 12:] *= 8
    changed[:, 1] = torch.nan
    output, other = (window_attention(*x, window=5, causal=True, sliding=sliding) for x in (inputs, changed))
    assert torch.equal(output[0, :, :12], other[0, :, :12])
    assert not torch.equal(output[0, :, 12:], other[0, :, 12:])


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_float32_is_accurate(causal: bool, sliding: bool) -> None:
    exact = qkv(61).requires_grad_()
    single = exact.detach().float().requires_grad_()
    results = []
    for x in (single, exact):
        y = window_attention(*x, window=8, causal=causal, sliding=sliding)
        results.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    for a, b in zip(*results, strict=True):
        assert (a - b).square().mean().sqrt() < 2e-6 * b.square().mean().sqrt()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_low_precision_is_finite(causal: bool, sliding: bool, low: torch.dtype) -> None:
    inputs = (torch.randn(3, 1, 2, 21, 8) * 20).to(low).requires_grad_()
    output = window_attention(*inputs, window=4, causal=causal, sliding=sliding, mask=torch.arange(21)[None] > 2)
    (gradient,) = torch.autograd.grad(output.float().sum(), inputs)
    assert output.dtype == low and output.isfinite().all() and gradient.isfinite().all()


def test_dropout_drops() -> None:
    q, k, v = qkv(23)
    dropped, whole = (window_attention(q, k, v, window=5, causal=True, dropout=p) for p in (0.5, 0.0))
    assert dropped.isfinite().all() and not torch.allclose(dropped, whole)
    many = torch.stack([window_attention(q, k, v, window=5, causal=True, dropout=0.1) for _ in range(800)]).mean(dim=0)
    assert (many - whole).square().mean().sqrt() < 0.05 * whole.square().mean().sqrt()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_second_derivatives(causal: bool, sliding: bool, padded: bool) -> None:
    inputs = torch.randn(3, 2, 1, 8, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 6 + [False] * 2, [False] + [True] * 7]) if padded else None

    def run(inputs: torch.Tensor) -> torch.Tensor:
        return window_attention(*inputs, window=3, causal=causal, sliding=sliding, mask=mask)

    assert torch.autograd.gradgradcheck(run, (inputs,), fast_mode=True)


def test_compiles_whole() -> None:
    inputs = qkv(23).requires_grad_()

    def attend(inputs: torch.Tensor) -> torch.Tensor:
        return window_attention(*inputs, window=5, causal=True)

    output, expected = torch.compile(attend, fullgraph=True, backend="aot_eager")(inputs), attend(inputs)
    torch.testing.assert_close(output, expected)
    gradients = (torch.autograd.grad(y.square().sum(), inputs)[0] for y in (output, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("sliding", [True, False])
def test_gradients_through_pieces_and_the_state(sliding: bool) -> None:
    """Pieces longer than the window, short ones and single tokens: the gradients of all are those of the whole."""
    inputs = qkv(23).requires_grad_()
    whole = window_attention(*inputs, window=3, causal=True, sliding=sliding)
    state, parts = empty_window(2, 2, 3, 4, dtype=torch.float64), []
    for a, b in itertools.pairwise((0, 5, 6, 8, 17, 18, 23)):
        part, state = extend_window_attention(*inputs[:, :, :, a:b], state, sliding=sliding)
        parts.append(part)
    direction = torch.randn_like(whole)
    (expected,), (gradient,) = (torch.autograd.grad(y, inputs, direction) for y in (whole, torch.cat(parts, dim=2)))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("sliding", [True, False])
def test_one_state_has_many_continuations(sliding: bool) -> None:
    """What follows a state does not depend on what else followed it, and does not change it."""
    stories = [qkv(40) for _ in range(3)]
    for story in stories:
        story[:, :, :, :13] = stories[0][:, :, :, :13]
    state = empty_window(2, 2, 5, 4, dtype=torch.float64)
    for i in range(13):
        _, state = extend_window_attention(*stories[0][:, :, :, i : i + 1], state, sliding=sliding)
    kept, states, outputs = state.map(torch.clone), [state] * 3, [[], [], []]
    for i in range(13, 40):
        for which, story in enumerate(stories):
            y, states[which] = extend_window_attention(*story[:, :, :, i : i + 1], states[which], sliding=sliding)
            outputs[which].append(y)
    for story, found in zip(stories, outputs, strict=True):
        expected = window_attention(*story, window=5, causal=True, sliding=sliding)[:, :, 13:]
        torch.testing.assert_close(torch.cat(found, dim=2), expected)
    for a, b in zip(state.tensors(), kept.tensors(), strict=True):
        assert torch.equal(a, b)
