"""Models of others, trained and measured as ours are."""

import json
from pathlib import Path

import pytest
import torch

from subquadratic.comparison.foreign import ForeignModel
from subquadratic.evaluation.windows import scored_losses

MODULE = """
import torch
from torch import nn

class Counting(nn.Module):
    "Logits of a token from the running mean of the embeddings so far."
    def __init__(self, vocab_size, length):
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, vocab_size, bias=False)
        self.head.weight = self.embedding.weight  # tied

    def forward(self, tokens):
        x = self.embedding(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        return self.head(x)

def build(vocab_size, length=None):
    return Counting(vocab_size, length)

def wrong(vocab_size):
    return nn.Linear(1, 1)

def fails(vocab_size):
    raise RuntimeError("no luck")

def nothing(vocab_size):
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return path


def model(file: Path, function: str = "build") -> ForeignModel:
    return ForeignModel({"source": "file", "path": str(file), "function": function}, vocab_size=11, length=16)


def test_its_losses_are_those_of_its_logits(file: Path) -> None:
    net, tokens = model(file), torch.randint(0, 11, (3, 9))
    logits = net(tokens[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    torch.testing.assert_close(net.loss(tokens), nats.mean())
    torch.testing.assert_close(net.token_losses(tokens)[0], nats.flatten())
    scored = torch.rand(3, 9) < 0.5
    torch.testing.assert_close(net.loss(tokens, scored=scored), nats[scored[:, 1:]].mean())
    assert net.count_predictions(tokens) == 24 and net.count_predictions(tokens, scored=scored) == scored[:, 1:].sum()
    torch.testing.assert_close(scored_losses(net.eval(), tokens, scored)[0], nats[scored[:, 1:]])
    assert net.net.length == 16


def test_saved_and_loaded_with_tied_weights(file: Path, tmp_path: Path) -> None:
    net, tokens = model(file).eval(), torch.randint(0, 11, (2, 7))
    net.save_pretrained(tmp_path / "saved")
    again = ForeignModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(tokens), net(tokens), rtol=0, atol=0)
    other = ForeignModel(net.spec, vocab_size=11, length=16)
    with pytest.raises(RuntimeError, match="do not fit"):
        other.load_state_dict({})


@pytest.mark.parametrize(
    ("function", "said"),
    [("fails", "RuntimeError: no luck"), ("nothing", "must give an nn.Module, got int"), ("missing", "AttributeError")],
)
def test_what_is_no_model_is_refused(file: Path, function: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(file, function)


def test_logits_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.py"
    path.write_text("from torch import nn\ndef build(vocab_size):\n    return nn.Embedding(vocab_size, vocab_size - 1)\n")
    with pytest.raises(ValueError, match=r"gives \(2, 5, 10\) for tokens \(2, 5\), and logits \(2, 5, 11\) are needed"):
        model(path)(torch.zeros(2, 5, dtype=torch.int64))


def test_an_architecture_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=99, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    folder = tmp_path / "gpt2"
    config.save_pretrained(folder)
    net = ForeignModel({"source": "transformers", "path": str(folder)}, vocab_size=11, length=16).eval()
    tokens = torch.randint(0, 11, (2, 16))
    assert net(tokens).shape == (2, 16, 11)
    net.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(ForeignModel.from_pretrained(tmp_path / "saved")(tokens), net(tokens), rtol=0, atol=0)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["class"] == "ForeignModel"
