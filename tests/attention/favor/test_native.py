"""FAVOR+ by the C kernels against the definition in float64: values, gradients, states, masks, packed documents, threads."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.favor import native_causal, native_summary
from subquadratic.attention.favor.features import orthogonal_gaussian
from subquadratic.attention.favor.op import causal_favor, read_favor, summarise_favor
from subquadratic.attention.favor.state import FeatureState
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.kernels.native.operators import shares_of

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def error(found: Tensor, true: Tensor) -> float:
    """RMS of the difference over that of the truth."""
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-12)).sqrt().detach())


def state_of(batch: int, heads: int, features: int, width: int) -> FeatureState:
    total, weight = torch.rand(batch, heads, features, width), torch.rand(batch, heads, features) + 0.1
    return FeatureState(total, weight, torch.full((batch, heads, 1), 0.5))


def run(inputs: list[Tensor], projection: Tensor, causal: bool, backend: str, **more: object) -> list[Tensor]:
    """Output, state, and all gradients in one (queries alone have none where there is one key); in float64 unless by the kernels."""
    dtype = torch.float32 if backend == "native" else torch.float64
    *given, towards = (x.detach().to(dtype) for x in inputs)
    q, k, v, *before = (x.requires_grad_() for x in given)
    projection = projection.to(dtype)
    with use_backend(backend):
        if causal:
            state = None
            if before:
                state = FeatureState(*before, torch.full_like(before[0][..., 0, :1], 0.5))
            output, after = causal_favor(q, k, v, projection, state, **more)
        else:
            after = summarise_favor(k, v, projection, more.get("mask"))
            output = read_favor(q, after, projection)
        # The stabiliser may be one number or another: what is stabilised counts.
        scale = after.maximum.detach().exp()
        total, weight = after.total * scale[..., None], after.weight * scale
        loss = (output * towards).sum() + 0.1 * total.square().mean() + weight.mean()
        gradients = torch.autograd.grad(loss, (q, k, v, *before))
        return [output, total, weight, torch.cat([gradient.flatten() for gradient in gradients])]


def compare(
    batch: int,
    heads: int,
    length: int,
    width: int,
    features: int,
    *,
    causal: bool,
    masked: bool,
    with_state: bool,
    spread: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    q, k, v, towards = (torch.randn(batch, length, heads, width).transpose(1, 2) for _ in range(4))
    projection = orthogonal_gaussian(features, width)
    mask = torch.rand(batch, length) > 0.3 if masked else None
    before = state_of(batch, heads, features, width)
    inputs = [q * spread, k * spread, v, *((before.total, before.weight) if with_state else ()), towards]
    found, true = (run(inputs, projection, causal, backend, mask=mask) for backend in ("native", "torch"))
    for mine, wanted in zip(found, true, strict=True):
        assert error(mine, wanted) < 3e-5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.one_of(st.integers(1, 200), st.sampled_from([63, 64, 65, 128, 129])), width=st.sampled_from([1, 5, 8, 16, 24, 33, 64]),
    features=st.sampled_from([1, 6, 9, 20, 66]), masked=st.booleans(), causal=st.booleans(), with_state=st.booleans(),
    spread=st.sampled_from([0.3, 1.0, 3.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, length: int, width: int, features: int, masked: bool, causal: bool, with_state: bool, spread: float, seed: int
) -> None:
    compare(2, 3, length, width, features, causal=causal, masked=masked, with_state=causal and with_state, spread=spread, seed=seed)


@pytest.mark.parametrize("turned", ["not", "alike", "by row"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("width", "features"), [(1, 1), (6, 9), (16, 20), (24, 33), (64, 266)])
def test_one_token_equals_the_definition(lanes: None, turned: str, masked: bool, width: int, features: int) -> None:
    q, k, v = (torch.randn(3, 2, 1, width) for _ in range(3))
    turns = {"not": None, "alike": torch.randn(1, width), "by row": torch.randn(3, 1, 1, width)}[turned] if width % 2 == 0 else None
    mask = torch.tensor([[True], [False], [True]]) if masked else None
    before = state_of(3, 2, features, width)
    projection = orthogonal_gaussian(features, width)
    with use_backend("native"):
        output, after = causal_favor(q, k, v, projection, before, mask=mask, turns=turns)
    with use_backend("torch"):
        wide = before.to(dtype=torch.float64)
        turns = None if turns is None else turns.double()
        wanted, true = causal_favor(q.double(), k.double(), v.double(), projection.double(), wide, mask=mask, turns=turns)
    assert error(output, wanted) < 1e-5
    for name in ("total", "weight"):
        scales = [state.maximum.double().exp() for state in (after, true)]
        scales = [scale[..., None] if name == "total" else scale for scale in scales]
        assert error(getattr(after, name) * scales[0], getattr(true, name) * scales[1]) < 1e-5


SEVERAL = pytest.mark.parametrize("threads", [2, 3, 5], indirect=True)


@SEVERAL
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("most", [3000, 10**9])
def test_any_number_of_threads(causal: bool, most: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_causal, "MOST_KEPT", most)
    assert shares_of(1, 1300, again=native_causal.WORK_DONE_AGAIN) > 1
    for masked, with_state in ((False, causal), (True, False)):
        compare(1, 1, 1300, 16, 40, causal=causal, masked=masked, with_state=with_state, spread=1.0, seed=1)
        compare(1, 3, 1300, 8, 20, causal=causal, masked=masked, with_state=with_state, spread=1.0, seed=2)


@SEVERAL
def test_threads_share_packed_documents(threads: int) -> None:
    packed([0, 700, 703, 703, 1400], 1400)


@pytest.mark.parametrize("most", [0, 3 * 2 * 20 * 9, 10**9])
def test_summaries_that_are_not_kept_are_made_again(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_causal, "MOST_KEPT", max(most, 1))
    compare(1, 2, 600, 8, 20, causal=True, masked=True, with_state=True, spread=1.0, seed=2)


@pytest.mark.parametrize("bounds", [[0, 130], [0, 1, 70, 70, 130], [0, 64, 128, 130]])
def test_packed_documents(bounds: list[int]) -> None:
    packed(bounds, 130)


def packed(bounds: list[int], length: int) -> None:
    torch.manual_seed(3)
    inputs = [torch.randn(1, length, 2, 8).transpose(1, 2) for _ in range(4)]
    before = state_of(len(bounds) - 1, 2, 20, 8)
    inputs[3:3] = [before.total, before.weight]
    cuts, mask = torch.tensor(bounds), torch.rand(1, length) > 0.2
    projection = torch.randn(20, 8)
    found, true = (run(inputs, projection, True, backend, mask=mask, cu_seqlens=cuts) for backend in ("native", "torch"))
    for mine, wanted in zip(found, true, strict=True):
        assert error(mine, wanted) < 3e-5


def test_the_future_changes_not_a_bit(lanes: None) -> None:
    q, k, v = (torch.randn(1, 2, 200, 16) for _ in range(3))
    projection = torch.randn(24, 16)
    with use_backend("native"):
        before, _ = causal_favor(q, k, v, projection)
        for i in (0, 5, 63, 64, 100, 198):
            changed = [x.clone() for x in (q, k, v)]
            for x in changed:
                x[:, :, i + 1 :] = 1e3 * torch.randn_like(x[:, :, i + 1 :])
            after, _ = causal_favor(*changed, projection)
            assert torch.equal(before[:, :, : i + 1], after[:, :, : i + 1])


@pytest.mark.parametrize("causal", [True, False])
def test_padding_may_hold_anything_and_rows_may_be_empty(causal: bool) -> None:
    q, k, v, towards = (torch.randn(2, 2, 90, 8) for _ in range(4))
    mask = torch.arange(90)[None].expand(2, 90) % 3 > 0
    mask = mask & torch.tensor([[True], [False]])
    dead = ~mask[:, None, :, None]
    clean, odd = ([q, x.masked_fill(dead, fill), y.masked_fill(dead, fill), towards] for x, y, fill in ((k, v, 0.0), (k, v, torch.nan)))
    projection = torch.randn(20, 8)
    found = [run(inputs, projection, causal, "native", mask=mask) for inputs in (clean, odd)]
    assert not found[0][0][1].any()
    for mine, wanted in zip(*found, strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_no_number_stays_none(causal: bool) -> None:
    q, k, v, towards = (torch.randn(1, 1, 70, 8) for _ in range(4))
    v[0, 0, 3, 2] = torch.nan
    output = run([q, k, v, towards], torch.randn(20, 8), causal, "native")[0]
    assert output[0, 0, 3:, 2].isnan().all()
    k[0, 0, 5, 1] = torch.nan
    assert run([q, k, v, towards], torch.randn(20, 8), causal, "native")[0][0, 0, 5:].isnan().all()


def test_no_features_are_kept_for_backward() -> None:
    length, width, features = 1024, 16, 128
    q, k, v = (torch.randn(1, 1, length, width, requires_grad=True) for _ in range(3))
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with use_backend("native"), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        causal_favor(q, k, v, torch.randn(features, width))
    chunks = length // native_causal.CHUNK
    before = features * (width + 1) + 1  # the state that was given, which a second derivative would need
    assert kept == length * (4 * width + 1) + features * width + 1 + chunks + 1 + chunks * features * (width + 1) + before


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bounds", [[], [0, 40, 40, 90]])
def test_operators_are_well_formed(keep: bool, bounds: list[int]) -> None:
    batch = 1 if bounds else 2
    q, k, v = (torch.randn(batch, 90, 2, 8).transpose(1, 2) for _ in range(3))
    projection, mask = torch.randn(20, 8), torch.rand(batch, 90) > 0.3
    state = state_of(3 if bounds else 2, 2, 20, 8)
    checks = ("test_schema", "test_faketensor")
    arguments = (q, k, v, projection, mask, state.total, state.weight, state.maximum, bounds, keep)
    torch.library.opcheck(torch.ops.subquadratic.favor_causal.default, arguments, test_utils=checks)
    output, total, weight, maximum, *kept = native_causal.favor_causal(*arguments)
    if keep:
        backward = (torch.randn_like(output), total, weight, q, k, v, projection, mask, output, maximum, bounds, *kept)
        torch.library.opcheck(torch.ops.subquadratic.favor_causal_backward.default, backward, test_utils=checks)
    before = tuple(x[:batch].contiguous() for x in (total, weight, maximum))
    for turns in (None, torch.randn(1, 8), torch.randn(batch, 1, 1, 8)):
        token = (*(x[:, :, :1].contiguous() for x in (q, k, v)), turns, mask[:, :1].contiguous(), projection, *before)
        torch.library.opcheck(torch.ops.subquadratic.favor_step.default, token, test_utils=checks)
    torch.library.opcheck(torch.ops.subquadratic.favor_summarise.default, (k, v, projection, mask), test_utils=checks)
    summary = native_summary.favor_summarise(k, v, projection, mask)
    torch.library.opcheck(
        torch.ops.subquadratic.favor_summarise_backward.default, (*summary[:2], k, v, projection, mask, summary[2]), test_utils=checks
    )
    torch.library.opcheck(torch.ops.subquadratic.favor_read.default, (q, projection, *summary), test_utils=checks)
    read = native_summary.favor_read(q, projection, *summary)
    torch.library.opcheck(
        torch.ops.subquadratic.favor_read_backward.default, (torch.randn_like(read[0]), q, projection, *summary, *read), test_utils=checks
    )


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("width", "features"), [(16, 20), (5, 9), (64, 66)])
def test_token_by_token_equals_the_whole(lanes: None, masked: bool, width: int, features: int) -> None:
    q, k, v = (torch.randn(2, 20, 3, width).transpose(1, 2) for _ in range(3))
    projection, mask = torch.randn(features, width), torch.rand(2, 20) > 0.3 if masked else None
    if mask is not None:
        mask[0] = False
        k = k.masked_fill(~mask[:, None, :, None], torch.nan)
    state, parts = None, []
    with use_backend("native"), torch.no_grad():
        whole, last = causal_favor(q, k, v, projection, mask=mask)
        for i in range(20):
            before = None if state is None else state.total.clone()
            part, after = causal_favor(
                *(x[:, :, i : i + 1] for x in (q, k, v)), projection, state, mask=None if mask is None else mask[:, i : i + 1]
            )
            assert state is None or torch.equal(state.total, before)
            state = after
            parts.append(part)
    assert error(torch.cat(parts, dim=2), whole.double()) < 1e-5
    assert torch.equal(state.maximum, last.maximum) or error(state.maximum, last.maximum.double()) < 1e-6
    scale = state.maximum.exp()[..., None]
    assert error(state.total * scale, (last.total * last.maximum.exp()[..., None]).double()) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_what_lies_at_padding_is_nobodys_business(causal: bool) -> None:
    """Keys and values come as they are, and nothing of them reaches an output, a gradient or a gradient's gradient."""
    q, k, v = (torch.randn(2, 3, 70, 8) for _ in range(3))
    projection, mask = orthogonal_gaussian(20, 8), torch.rand(2, 70) > 0.3
    k, v = (x.masked_fill(~mask[:, None, :, None], torch.nan).requires_grad_() for x in (k, v))
    q.requires_grad_()
    with use_backend("native"):
        if causal:
            output, after = causal_favor(q, k, v, projection, mask=mask)
        else:
            after = summarise_favor(k, v, projection, mask)
            output = read_favor(q, after, projection)
        assert output[mask[:, None].expand(-1, 3, -1)].isfinite().all() and after.total.isfinite().all()
        loss = output[mask[:, None].expand(-1, 3, -1)].square().sum() + after.total.square().sum()
        first = torch.autograd.grad(loss, (q, k, v), create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), (q, k, v))
    for gradient in (*first[1:], *second[1:]):
        assert gradient.isfinite().all() and not gradient[~mask[:, None].expand(-1, 3, -1)].any()
