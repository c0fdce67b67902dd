"""The parts of feedback attention against their definitions."""

import pytest
import torch

from subquadratic.attention.feedback.buckets import relative_bucket_reference, relative_buckets
from subquadratic.attention.feedback.layer import FeedbackAttention, FeedbackMemory, RelativeBias, merge_layers
from subquadratic.attention.feedback.line import MemoryLine, attend_runs, attend_runs_reference
from subquadratic.attention.feedback.segments import bring_back, lay_out
from subquadratic.core.numerics import HIDDEN


def line(places: int, dtype: torch.dtype = torch.float64) -> MemoryLine:
    return MemoryLine(2, places, groups=2, heads=3, width=4, device=torch.device("cpu"), dtype=dtype)


def entries(count: int) -> torch.Tensor:
    """(B, n, G, 2, H, K)."""
    return torch.randn(2, count, 2, 2, 3, 4, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (2, 3), (7, 20), (8, 200)])
def test_relative_buckets_are_the_formula(buckets: int, max_distance: int) -> None:
    distance = torch.arange(-5, 500)
    expected = [relative_bucket_reference(d, buckets=buckets, max_distance=max_distance) for d in distance.tolist()]
    found = relative_buckets(distance, buckets=buckets, max_distance=max_distance)
    assert found.tolist() == expected
    assert found.max() == buckets - 1


def test_relative_bias_looks_distances_up() -> None:
    bias = RelativeBias(3, buckets=8, max_distance=20)
    distance = torch.tensor([[0, 1, 2, 50], [-4, 0, 1, 7]])
    for index, d in enumerate(distance.flatten().tolist()):
        bucket = relative_bucket_reference(d, buckets=8, max_distance=20)
        assert torch.equal(bias(distance).flatten(1)[:, index], bias.table[bucket])


def test_a_line_gives_what_was_written_and_sums_the_gradients_of_its_readers() -> None:
    first, second = entries(4), entries(3)
    keep = torch.tensor([[False, True, False], [True, False, False]])  # the second begins within the first, as an open segment does

    memory = line(6)
    token = memory.write(first, 0, memory.start())
    total = torch.zeros((), dtype=torch.float64)
    for keys, values in memory.read(0, 2, token):
        total = total + (keys.square() + values.sin()).sum()
    token = memory.write(second, 2, token, keep=keep)
    for keys, values in memory.read(1, 6, token):
        total = total + (keys.pow(3) + values.cos()).sum()

    padded = torch.nn.functional.pad(first, (0, 0) * 4 + (0, 2))
    merged = torch.where(keep[:, :, None, None, None, None], padded[:, 2:5], second)
    joined = torch.cat((padded[:, :2], merged, padded[:, 5:]), dim=1)
    expected = first[:, :2, :, 0].square().sum() + first[:, :2, :, 1].sin().sum()
    expected = expected + joined[:, 1:, :, 0].pow(3).sum() + joined[:, 1:, :, 1].cos().sum()

    assert torch.allclose(total, expected)
    found = torch.autograd.grad(total, (first, second), retain_graph=True)
    for gradient, other in zip(found, torch.autograd.grad(expected, (first, second)), strict=True):
        assert torch.allclose(gradient, other)
    for gradient, other in zip(found, torch.autograd.grad(total, (first, second)), strict=True):
        assert torch.equal(gradient, other)


def test_a_line_passes_gradcheck() -> None:
    def recurrence(start: torch.Tensor) -> torch.Tensor:
        memory = line(5)
        token = memory.write(start, 0, memory.start())
        for place in (1, 2, 3, 4):
            window = memory.read(max(place - 2, 0), place, token)
            new = torch.stack([torch.stack((k.sum(2).tanh(), v.mean(2) * k[:, :, -1])) for k, v in window])
            token = memory.write(new.permute(2, 0, 1, 3, 4)[:, None], place, token)
        return torch.stack([part for pair in memory.read(0, 5, token) for part in pair])

    assert torch.autograd.gradcheck(recurrence, (entries(1),))


def test_a_cut_line_passes_no_gradient_back() -> None:
    memory, early, late = line(2), entries(1), entries(1)
    memory.write(early, 0, memory.start())
    token = memory.write(late, 1, memory.start())
    total = sum(keys.sum() + values.sum() for keys, values in memory.read(0, 2, token, cut=1))
    total.backward()
    assert early.grad is None and (late.grad == 1).all()


def test_runs_are_attended_to_together() -> None:
    queries = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    runs = [(torch.randn(2, 3, s, 5, dtype=torch.float64), torch.randn(2, 3, s, 5, dtype=torch.float64)) for s in (4, 1, 6)]
    bias = torch.randn(3, 4, 11, dtype=torch.float64)
    assert torch.allclose(attend_runs(queries, runs, bias), attend_runs_reference(queries, runs, bias))
    hidden = bias.clone()
    hidden[..., 4:] = HIDDEN
    assert torch.allclose(attend_runs(queries, runs, hidden), attend_runs_reference(queries, runs[:1], bias[..., :4]))
    assert attend_runs(queries, runs, torch.full_like(bias, HIDDEN)).isfinite().all()


@pytest.mark.parametrize("share", [True, False])
def test_the_memory_is_the_paper_s(share: bool) -> None:
    memory = FeedbackMemory(6, depth=2, heads=2, head_dim=3, share_key_value=share, norm=torch.nn.LayerNorm(6)).double()
    memory.layer_weight.data = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    hidden = [torch.randn(1, 4, 6, dtype=torch.float64) for _ in range(3)]
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).exp()
    mixed = (w[0] * hidden[0] + w[1] * hidden[1] + w[2] * hidden[2]) / w.sum()
    assert torch.allclose(merge_layers(hidden, memory.weights()), mixed)
    normed = torch.nn.functional.layer_norm(mixed, (6,))
    found = memory(hidden, memory.weights())
    assert found.shape == (1, 4, 1 if share else 2, 2, 2, 3)
    assert torch.allclose(found.flatten(2), normed @ memory.key_value.weight.T)
    for layer in range(2):
        assert torch.allclose(memory.of_layer(normed, layer), found[:, :, 0 if share else layer])


def test_attention_scales_its_queries() -> None:
    attention = FeedbackAttention(8, heads=2, head_dim=16)
    x = torch.randn(1, 3, 8)
    assert torch.allclose(attention.queries(x)[0, 1], attention.query(x)[0, :, 16:] / 4)
    with pytest.raises(ValueError, match="divisible"):
        FeedbackAttention(8, heads=3)
    with pytest.raises(ValueError, match="dropout"):
        FeedbackAttention(8, heads=2, dropout=1.0)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("phases", [None, [2, 2, 2], [0, 3, 1]])
def test_rows_are_laid_out_at_their_places(with_mask: bool, phases: list[int] | None) -> None:
    x = torch.arange(1.0, 16.0).view(3, 5, 1)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool() if with_mask else None
    layout = lay_out(x, mask, None if phases is None else torch.tensor(phases), 8)
    for row in range(3):
        tokens = (x[row] if mask is None else x[row, mask[row]]).flatten().tolist()
        ahead = 0 if phases is None else phases[row] - layout.slot
        width = layout.x.shape[1]
        assert layout.x[row].flatten().tolist() == [0.0] * ahead + tokens + [0.0] * (width - ahead - len(tokens))
        if layout.end is not None:
            assert layout.end[row] == layout.slot + ahead + len(tokens)
    y = bring_back(layout.x, layout, mask)
    assert torch.equal(y, x if mask is None else x.masked_fill(~mask[..., None], 0.0))
