"""ONNX graphs, run by ONNX Runtime, against the model: batches and lengths that no graph was made with, and masks of every kind."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic.export import OnnxModel, onnx
from subquadratic.export.programs import state_names

from .feedback_places import read_places

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SMALL = {"dim": 16, "depth": 1, "heads": 2}
CAUSAL = {
    "performer": sq.PerformerConfig(**SMALL, features=4),
    "performer-local": sq.PerformerConfig(**SMALL, features=4, local_heads=1, local_window=3),
    "fastformer": sq.FastformerConfig(**SMALL),
    "linformer": sq.LinformerConfig(**SMALL, max_length=400, slots=4),
    "gated-linear": sq.GatedLinearConfig(**SMALL),
    "transformer": sq.TransformerConfig(**SMALL),
    "window": sq.TransformerConfig(**SMALL, window=5),
    "feedback": sq.FeedbackTransformerConfig(**SMALL, memory_length=5, segment_length=3),
    "feedback-tokens": sq.FeedbackTransformerConfig(**SMALL, memory_length=5),
}
BIDIRECTIONAL = {
    "performer": sq.PerformerConfig(**SMALL, features=4, causal=False),
    "fastformer": sq.FastformerConfig(**SMALL, causal=False),
    "linformer": sq.LinformerConfig(**SMALL, max_length=400, slots=4, causal=False),
    "transformer": sq.TransformerConfig(**SMALL, causal=False),
}
SHAPES = ((1, 1), (2, 4), (5, 31), (3, 64), (1, 211))  # batch, length; the piece is of 4 tokens
MASKS = ("none", "left", "right", "holes", "empty")


def sharp(model: torch.nn.Module, scale: float = 0.4) -> torch.nn.Module:
    """With weights large enough to tell one token from another."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale, generator=generator)
    return model.eval()


def drawn(kind: str, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and a mask of a kind."""
    tokens, mask = torch.randint(0, 11, (batch, length)), torch.ones(batch, length, dtype=torch.bool)
    cut = int(torch.randint(0, length + 1, ()))
    if kind == "left":
        mask[0, :cut] = False
    elif kind == "right":
        mask[-1, cut:] = False
    elif kind == "holes":
        mask = torch.rand(batch, length) > 0.4
    elif kind == "empty":
        mask[0] = False
    return tokens, mask


def agree(wanted: torch.Tensor, found: np.ndarray) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def agree_on_state(wanted: sq.State, found: dict[str, np.ndarray], config: sq.BackboneConfig) -> None:
    """Of a Feedback Transformer's, where it is read: elsewhere lies what a call had there, by how it laid out its columns. That nothing
    else is read: :func:`test_a_feedback_state_is_read_only_there`."""
    assert len(found) == len(wanted.tensors())
    for tensor, (name, value) in zip(wanted.tensors(), found.items(), strict=True):
        places = read_places(config, wanted.backbone.seen, name, tensor) if isinstance(config, sq.FeedbackTransformerConfig) else ...
        agree(tensor[places], value[places if places is ... else places.numpy()])


def some_slow(configs: dict[str, sq.BackboneConfig], *quick: str) -> list[object]:
    """An export takes some five seconds, of which a causal model needs two: each time one with a loop over pieces."""
    return [pytest.param(config, id=name, marks=[] if name in quick else pytest.mark.slow) for name, config in configs.items()]


@pytest.mark.parametrize("config", some_slow(CAUSAL, "performer-local"))
@torch.no_grad()
def test_causal_models_at_any_length(config: sq.BackboneConfig, tmp_path: Path) -> None:
    # A Feedback Transformer with large weights is chaotic: two roundings of it part, in float32 and float64 as in PyTorch and ONNX.
    model = sharp(sq.LanguageModel(config, vocab_size=11), 0.2 if isinstance(config, sq.FeedbackTransformerConfig) else 0.4)
    onnx(model, tmp_path / "out", piece_length=4)
    run = OnnxModel.load(tmp_path / "out")
    torch.manual_seed(0)
    for batch, length in SHAPES:
        ours, theirs = model.init_state(batch), run.init_state(batch)
        for kind, piece in zip(MASKS, (length, 1, 7, 13, 1), strict=True):
            tokens, mask = drawn(kind, batch, length)
            agree(model(tokens, mask=mask), run(tokens.numpy(), mask.numpy()))
            tokens, mask = drawn(kind, batch, piece)
            before = {name: value.copy() for name, value in theirs.items()}
            wanted, ours = model.extend(tokens, ours, mask=mask)
            found, after = run.extend(tokens.numpy(), theirs, mask.numpy())
            agree(wanted, found)
            assert all(np.array_equal(before[name], value) for name, value in theirs.items())
            agree_on_state(ours, theirs := after, config)
    prompt = torch.randint(0, 11, (2, 7))
    wanted = model.generate(prompt, max_new_tokens=9, temperature=0)
    assert torch.equal(torch.from_numpy(run.generate(prompt.numpy(), max_new_tokens=9)), wanted)


@pytest.mark.parametrize("config", some_slow(BIDIRECTIONAL, "linformer"))
@torch.no_grad()
def test_bidirectional_models_at_any_length(config: sq.BackboneConfig, tmp_path: Path) -> None:
    check_classifier(config, tmp_path)
    with pytest.raises(ValueError, match="bidirectional"):
        OnnxModel.load(tmp_path / "out").init_state(1)


@pytest.mark.slow
@torch.no_grad()
def test_a_causal_classifier(tmp_path: Path) -> None:
    check_classifier(CAUSAL["performer"], tmp_path)


def check_classifier(config: sq.BackboneConfig, folder: Path) -> None:
    model = sharp(sq.SequenceClassifier(config, vocab_size=11, num_classes=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnx(model, folder / "out", piece_length=4)
    assert str(Path(sq.__file__).parent).encode() not in (folder / "out" / "forward.onnx").read_bytes()
    run = OnnxModel.load(folder / "out")
    torch.manual_seed(0)
    for batch, length in (*SHAPES, (1, 397)):
        for kind in MASKS:
            tokens, mask = drawn(kind, batch, length)
            agree(model(tokens, mask=mask), run(tokens.numpy(), mask.numpy()))


@pytest.mark.parametrize("segment_length", [1, 3, 7])
@torch.no_grad()
def test_a_feedback_state_is_read_only_there(segment_length: int) -> None:
    """Anything may stand at other places: logits and the places read afterwards stay the same, bit for bit."""
    config = sq.FeedbackTransformerConfig(**SMALL, memory_length=5, segment_length=segment_length)
    model = sharp(sq.LanguageModel(config, vocab_size=11), 0.2)
    torch.manual_seed(0)
    state, unread = model.init_state(3), 0
    for piece in (2, 1, 4, 9, 1, 5, 3, 16):
        for kind in MASKS:
            tokens, mask = drawn(kind, 3, piece)
            seen, names = state.backbone.seen, iter(state_names(state))

            def scrambled(tensor: torch.Tensor, seen: torch.Tensor = seen, names: Iterator[str] = names) -> torch.Tensor:
                read = read_places(config, seen, next(names), tensor)
                read = read.view(*read.shape, *[1] * (tensor.dim() - read.dim()))
                return torch.where(read, tensor, 9 * torch.randn(tensor.shape)).to(tensor)

            other = state.map(scrambled)
            unread += sum(not torch.equal(*pair) for pair in zip(state.tensors(), other.tensors(), strict=True))
            wanted, state = model.extend(tokens, state, mask=mask)
            found, other = model.extend(tokens, other, mask=mask)
            assert torch.equal(wanted, found)
            for name, one, two in zip(state_names(state), state.tensors(), other.tensors(), strict=True):
                places = read_places(config, state.backbone.seen, name, one)
                assert torch.equal(one[places], two[places])
    assert unread


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PerceiverAR"):
        onnx(sq.LanguageModel(sq.PerceiverARConfig(**SMALL, latents=4)), tmp_path / "new")
    with pytest.raises(ValueError, match="cross_attention"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL, cross_attention=True)), tmp_path / "new")
    with pytest.raises(ValueError, match="EncoderDecoder"):
        decoder = sq.PerformerConfig(**SMALL, cross_attention=True)
        onnx(sq.EncoderDecoder(sq.PerformerConfig(**SMALL, causal=False), decoder), tmp_path / "new")
    with pytest.raises(ValueError, match="LanguageModel"):
        onnx(torch.nn.Linear(2, 2), tmp_path / "new")
    (tmp_path / "weights.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"weights\.bin"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL)), tmp_path, overwrite=True)
    assert (tmp_path / "weights.bin").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="not an exported model"):
        OnnxModel.load(tmp_path)
