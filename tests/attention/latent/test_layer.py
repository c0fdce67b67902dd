"""Latent attention against the definition, and the right-aligned buffers under it."""

import pytest
import torch
from torch import Tensor

from subquadratic.attention.latent.layer import LatentAttention, LatentCache
from subquadratic.attention.latent.right_aligned import Counts, Splice, allowed_pairs, last_slots, pack_right, slot_positions
from subquadratic.attention.softmax.formula import softmax_attention_reference
from subquadratic.core.padding import pack


def rotated(vector: Tensor, position: int) -> Tensor:
    """RoFormer's rotation of one (K,) vector, pair by pair."""
    half = vector.shape[0] // 2
    turned = vector.clone()
    for pair in range(half):
        angle = torch.tensor(position * 10000.0 ** (-2 * pair / vector.shape[0]), dtype=vector.dtype)
        first, second = vector[pair], vector[half + pair]
        turned[pair] = first * angle.cos() - second * angle.sin()
        turned[half + pair] = second * angle.cos() + first * angle.sin()
    return turned


def reference(layer: LatentAttention, latents: Tensor, context: Tensor, *, rotary: bool) -> Tensor:
    """(N, D) latents over the (S, D) context that ends with them, one query, head and key at a time."""
    width, total, own = layer.width, context.shape[0], latents.shape[0]
    rows = []
    for i in range(own):
        place, heads = total - own + i, []
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            query, keys = layer.query(latents[i])[part], [layer.key(token)[part] for token in context[: place + 1]]
            if rotary:
                query, keys = rotated(query, place), [rotated(key, j) for j, key in enumerate(keys)]
            weights = torch.stack([query @ key * width**-0.5 for key in keys]).softmax(dim=0)
            heads.append(sum(weight * layer.value(token)[part] for weight, token in zip(weights, context, strict=False)))
        rows.append(layer.output(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("length, total", [(1, 1), (4, 4), (3, 8), (1, 8)])
def test_latents_over_a_context_are_the_definition(length: int, total: int, rotary: bool) -> None:
    layer = LatentAttention(8, heads=2, rotary=rotary).double()
    latents, context = torch.randn(2, length, 8, dtype=torch.double), torch.randn(2, total, 8, dtype=torch.double)
    places = torch.arange(total)
    result = layer(latents, cache=layer.read(context, places), positions=places[total - length :])
    expected = torch.stack([reference(layer, *row, rotary=rotary) for row in zip(latents, context, strict=True)])
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6 if rotary else 1e-12)  # angles are float32


def test_extend_continues_forward() -> None:
    layer = LatentAttention(8, heads=2).double()
    x, positions = torch.randn(2, 7, 8, dtype=torch.double), torch.arange(7)
    cache, outputs = layer.init_state(2, dtype=torch.double), []
    for start, stop in [(0, 3), (3, 4), (4, 7)]:
        splice = Splice.alike(older=start, fresh=stop - start, width=stop)
        piece, cache = layer.extend(x[:, start:stop], cache, positions=positions[start:stop], splice=splice)
        outputs.append(piece)
    torch.testing.assert_close(torch.cat(outputs, dim=1), layer(x, positions=positions))
    assert cache.keys.shape == (2, 2, 7, 4)


def test_empty_slots_neither_see_nor_are_seen() -> None:
    allowed = allowed_pairs(torch.tensor([[-1, 0, 1]]), torch.tensor([[-1, 0, 1]]))
    assert allowed[0, 0].tolist() == [[False] * 3, [False, True, False], [False, True, True]]
    layer = LatentAttention(8, heads=2).double()
    x = torch.randn(1, 3, 8, dtype=torch.double, requires_grad=True)
    y = layer(x, positions=torch.tensor([[-1, 0, 1]]), allowed=allowed)
    torch.testing.assert_close(y[:, 1:], layer(x[:, 1:], positions=torch.arange(2)))
    (gradient,) = torch.autograd.grad(y[:, 1:].sum(), x)
    assert gradient.isfinite().all() and gradient[:, 0].abs().max() == 0


def test_attention_never_keeps_scores() -> None:
    layer, length = LatentAttention(8, heads=2), 64
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
        layer(torch.randn(1, length, 8, requires_grad=True), positions=torch.arange(length)).sum().backward()
    assert max(kept) <= length * 8 * 2


def test_pack_right_keeps_order() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, False, False], [True, True, True, True]])
    order, positions = pack_right(mask)
    packed = pack(torch.arange(4.0).expand(3, 4)[..., None], order)[..., 0]
    assert packed[0, 2:].tolist() == [0, 2] and packed[2].tolist() == [0, 1, 2, 3]
    assert positions.tolist() == [[-2, -1, 0, 1], [-4, -3, -2, -1], [0, 1, 2, 3]]
    assert slot_positions(torch.tensor([5]), 2).tolist() == [[3, 4]]


def test_last_slots_pads_and_blanks() -> None:
    buffer = torch.arange(1.0, 7.0).view(2, 3, 1)
    assert last_slots(buffer, 2, None)[..., 0].tolist() == [[2, 3], [5, 6]]
    assert last_slots(buffer, 4, torch.tensor([1, 3]))[..., 0].tolist() == [[0, 0, 0, 3], [0, 4, 5, 6]]


def test_splice_joins_row_by_row() -> None:
    older, newer = torch.tensor([[[1.0], [2.0]], [[1.0], [2.0]]]), torch.tensor([[[3.0], [4.0]], [[3.0], [4.0]]])
    assert Splice.alike(older=2, fresh=2, width=3)(older, newer)[0, :, 0].tolist() == [2, 3, 4]
    assert Splice.alike(older=2, fresh=2, width=1)(older, newer)[0, :, 0].tolist() == [4]
    counts = Counts([2, 2], [4, 3], True, torch.device("cpu"))
    joined = counts.splice(counts.before, counts.after, older=2, newer=2, width=3)(older, newer)
    assert joined[..., 0].tolist() == [[2, 3, 4], [1, 2, 4]]


def test_cache_follows_the_rows() -> None:
    cache = LatentCache(torch.arange(3.0).view(3, 1, 1, 1), torch.arange(3.0).view(3, 1, 1, 1))
    assert cache.reorder(torch.tensor([2, 0])).keys.flatten().tolist() == [2, 0]


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="head_dim must be even"):
        LatentAttention(6, heads=2)
    with pytest.raises(ValueError, match="dropout is a probability"):
        LatentAttention(8, heads=2, dropout=1.5)
    with pytest.raises(TypeError):
        LatentAttention(8, headss=2)  # type: ignore[call-arg]


def test_the_shared_reference_agrees() -> None:
    """The plain function of the house on the same mask, so that two definitions stand behind the layer."""
    layer = LatentAttention(8, heads=2, rotary=False).double()
    x = torch.randn(2, 5, 8, dtype=torch.double)
    cache = layer.read(x, torch.arange(5))
    queries = layer.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = layer.output(softmax_attention_reference(queries, cache.keys, cache.values, allowed).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, positions=torch.arange(5)), expected)
