"""A model that is to predict the next token must not see it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquadratic as sq
from subquadratic.comparison import looking_ahead
from subquadratic.comparison.looking_ahead import check_causal

from .measuring.models import CAUSAL, VOCABULARY, build


class Net(nn.Module):
    """Logits from the embedding, and a second path that is multiplied by a weight which begins at `weight`."""

    def __init__(self, path: Any, weight: float = 1.0) -> None:
        super().__init__()
        self.embedding, self.head, self.path = nn.Embedding(13, 8), nn.Linear(8, 13), path
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.weight * self.path(x))


def convolution(x: Tensor) -> Tensor:
    return x.roll(-1, dims=1) + x.roll(-2, dims=1)


@pytest.mark.parametrize("name", CAUSAL)
def test_ours_see_no_later_token(name: str) -> None:
    check_causal(build(name), name=name, vocab_size=VOCABULARY, length=33)


def test_nor_does_a_decoder() -> None:
    sizes: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 1}
    decoder = sq.TransformerConfig(**sizes, cross_attention=True)
    model = sq.EncoderDecoder(sq.TransformerConfig(**sizes, causal=False), decoder, vocab_size=13)
    check_causal(model, name="transformer", vocab_size=13, length=12)


@pytest.mark.parametrize(
    ("path", "weight"),
    [
        (convolution, 1.0), (lambda x: x.roll(-1, dims=1), 1.0), (convolution, 0.0),
        (lambda x: x.mean(dim=1, keepdim=True), 1.0), (lambda x: x.flip(1).cumsum(1).flip(1), 1.0),
    ],
)  # fmt: skip
def test_what_reads_the_future_is_refused(path: Any, weight: float) -> None:
    model = Net(path, weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="mine reads the future: with other tokens from position"):
        check_causal(model, name="mine", vocab_size=13, length=32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_so_is_what_mixes_the_rows_of_a_batch() -> None:
    with pytest.raises(ValueError, match="mine reads other rows of its batch"):
        check_causal(Net(lambda x: x.mean(dim=0, keepdim=True)), name="mine", vocab_size=13, length=32)


def test_what_draws_random_numbers_is_not() -> None:
    check_causal(Net(torch.rand_like), name="mine", vocab_size=13, length=32)
    check_causal(Net(lambda x: x.cumsum(1)), name="mine", vocab_size=13, length=2)


def test_logits_of_long_windows_are_not_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking_ahead, "LOGITS", 13 * 2 * 200)
    seen = []
    check_causal(Net(lambda x: seen.append(x.shape[1]) or x.cumsum(1)), name="mine", vocab_size=13, length=10**9)
    assert set(seen) == {200}
