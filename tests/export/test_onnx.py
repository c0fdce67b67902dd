"""ONNX graphs, run by ONNX Runtime, against the model: batches and lengths that no graph was made with, and masks with holes."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic.export import OnnxModel, onnx

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SMALL = {"dim": 8, "depth": 1, "heads": 2}
CAUSAL = [
    sq.PerformerConfig(**SMALL, features=4, local_heads=1, local_window=3),
    sq.FastformerConfig(**SMALL),
    sq.LinformerConfig(**SMALL, max_length=400, slots=4),
    sq.GatedLinearConfig(**SMALL),
    sq.TransformerConfig(**SMALL),
    sq.FeedbackTransformerConfig(**SMALL, memory_length=5, segment_length=3),
]
BIDIRECTIONAL = [
    sq.PerformerConfig(**SMALL, features=4, causal=False),
    sq.FastformerConfig(**SMALL, causal=False),
    sq.LinformerConfig(**SMALL, max_length=400, slots=4, causal=False),
    sq.TransformerConfig(**SMALL, causal=False),
]


def sharp(model: torch.nn.Module) -> torch.nn.Module:
    """With weights large enough to tell one token from another."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.eval()


def drawn(chance: random.Random, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and a mask of one of the kinds that there are."""
    tokens, mask = torch.randint(0, 11, (batch, length)), torch.ones(batch, length, dtype=torch.bool)
    kind = chance.choice(["none", "left", "right", "holes"])
    cut = chance.randrange(length + 1)
    if kind == "left":
        mask[0, :cut] = False
    elif kind == "right":
        mask[-1, cut:] = False
    elif kind == "holes":
        mask = torch.rand(batch, length) > 0.4
    if chance.random() < 0.3:
        mask[0] = False  # an empty row
    return tokens, mask


def agree(wanted: torch.Tensor, found: np.ndarray) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def some_slow(configs: list[sq.BackboneConfig], *quick: type[sq.BackboneConfig]) -> list[object]:
    """An export takes ten seconds and more: each time one with a loop over pieces, and one whose state grows."""
    return [pytest.param(config, id=type(config).__name__, marks=[] if type(config) in quick else pytest.mark.slow) for config in configs]


@pytest.mark.parametrize("config", some_slow(CAUSAL, sq.FastformerConfig, sq.TransformerConfig))
@torch.no_grad()
def test_causal_models_at_any_length(config: sq.BackboneConfig, tmp_path: Path) -> None:
    model = sharp(sq.LanguageModel(config, vocab_size=11))
    onnx(model, tmp_path / "out", piece_length=4)
    run, chance = OnnxModel.load(tmp_path / "out"), random.Random(0)
    torch.manual_seed(0)
    for batch, length in ((1, 1), (2, 4), (5, 31), (3, 64), (1, 150)):
        tokens, mask = drawn(chance, batch, length)
        agree(model(tokens, mask=mask), run(tokens.numpy(), mask.numpy()))
        ours, theirs = model.init_state(batch), run.init_state(batch)
        for piece in (length, 1, 3):
            tokens, mask = drawn(chance, batch, piece)
            before = {name: value.copy() for name, value in theirs.items()}
            wanted, ours = model.extend(tokens, ours, mask=mask)
            found, after = run.extend(tokens.numpy(), theirs, mask.numpy())
            agree(wanted, found)
            assert all(np.array_equal(before[name], value) for name, value in theirs.items())
            theirs = after
        if not isinstance(config, sq.FeedbackTransformerConfig):  # whose open segment holds anything in places not yet taken
            for tensor, value in zip(ours.tensors(), theirs.values(), strict=True):
                agree(tensor, value)
    prompt = torch.randint(0, 11, (2, 7))
    wanted = model.generate(prompt, max_new_tokens=9, temperature=0)
    assert torch.equal(torch.from_numpy(run.generate(prompt.numpy(), max_new_tokens=9)), wanted)


@pytest.mark.parametrize("config", some_slow(BIDIRECTIONAL, sq.PerformerConfig))
@torch.no_grad()
def test_bidirectional_models_at_any_length(config: sq.BackboneConfig, tmp_path: Path) -> None:
    model = sharp(sq.SequenceClassifier(config, vocab_size=11, num_classes=3))
    onnx(model, tmp_path / "out")
    run, chance = OnnxModel.load(tmp_path / "out"), random.Random(1)
    torch.manual_seed(0)
    for batch, length in ((1, 1), (2, 4), (5, 31), (1, 399)):
        tokens, mask = drawn(chance, batch, length)
        agree(model(tokens, mask=mask), run(tokens.numpy(), mask.numpy()))
    with pytest.raises(ValueError, match="bidirectional"):
        run.init_state(1)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PerceiverAR"):
        onnx(sq.LanguageModel(sq.PerceiverARConfig(**SMALL, latents=4)), tmp_path / "new")
    with pytest.raises(ValueError, match="cross_attention"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL, cross_attention=True)), tmp_path / "new")
    with pytest.raises(ValueError, match="LanguageModel"):
        onnx(torch.nn.Linear(2, 2), tmp_path / "new")
    (tmp_path / "weights.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"weights\.bin"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL)), tmp_path, overwrite=True)
    assert (tmp_path / "weights.bin").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="not an exported model"):
        OnnxModel.load(tmp_path)
