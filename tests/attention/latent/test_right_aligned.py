"""Buffers that end together, joined: equal rows go on in place."""

import pytest
import torch

import subquadratic as sq
from subquadratic.attention.latent.right_aligned import Splice
from subquadratic.core.state import State


@pytest.mark.parametrize(("older", "fresh", "width"), [(5, 1, 6), (5, 1, 5), (5, 2, 3), (5, 3, 3), (0, 1, 1), (5, 0, 4), (2, 4, 9)])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_rows_alike(older: int, fresh: int, width: int, dim: int, training: bool) -> None:
    past, new = torch.randn(2, 9, 9, 3).narrow(dim, 0, older), torch.randn(2, 9, 9, 3).narrow(dim, 0, 4)
    taken = min(fresh, width)
    kept = min(width - taken, older)
    expected = torch.cat((past.narrow(dim, older - kept, kept), new.narrow(dim, 4 - taken, taken)), dim=dim)
    with torch.set_grad_enabled(training):
        assert torch.equal(Splice.alike(older=older, fresh=fresh, width=width)(past, new, dim), expected)


@torch.no_grad()
def test_the_input_of_a_perceiver_is_not_copied_for_every_token() -> None:
    net = sq.LanguageModel(sq.PerceiverARConfig(dim=8, depth=1, heads=2, latents=300), vocab_size=11).eval()
    state: State
    _, state = net.extend(torch.randint(0, 11, (1, 40)), net.init_state(1))
    storages: dict[int, set[int]] = {}
    for _ in range(100):
        _, state = net.extend(torch.randint(0, 11, (1, 1)), state)
        for index, tensor in enumerate(state.tensors()):
            if max(tensor.shape) >= 40:
                storages.setdefault(index, set()).add(tensor.untyped_storage().data_ptr())
    assert len(storages) >= 4
    assert sorted(len(found) < 10 for found in storages.values()).count(False) <= 1  # the tokens kept for the latents are a copy
