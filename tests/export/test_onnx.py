"""ONNX graphs, run by ONNX Runtime, against the model: batches and lengths that no graph was made with, and masks of every kind."""

import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic.export import OnnxEncoderDecoder, OnnxModel, onnx
from subquadratic.export.programs import state_names, whole

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
    "window": sq.TransformerConfig(**SMALL, window=3, causal=False),
    "performer-local": sq.PerformerConfig(**SMALL, features=4, local_heads=1, local_window=3, causal=False),
    "performer-optimal": sq.PerformerConfig(**SMALL, features=4, estimator="optimal", center=True, balance="channel", causal=False),
}
CROSSED = {**SMALL, "cross_attention": True}
PAIRS = {
    "performer": (BIDIRECTIONAL["performer"], sq.PerformerConfig(**CROSSED, features=4)),
    "transformer": (BIDIRECTIONAL["transformer"], sq.TransformerConfig(**CROSSED)),
    "linformer-window": (BIDIRECTIONAL["linformer"], sq.TransformerConfig(**CROSSED, window=5)),
    "window-linformer": (BIDIRECTIONAL["window"], sq.LinformerConfig(**CROSSED, max_length=400, slots=4, context_length=400)),
    "fastformer-feedback": (BIDIRECTIONAL["fastformer"], sq.FeedbackTransformerConfig(**CROSSED, memory_length=5, segment_length=3)),
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


def some_slow(configs: Mapping[str, Any], *quick: str) -> list[object]:
    """An export takes some five seconds, of which a causal model needs two: each time one with a loop over pieces."""
    listed = {name: given if isinstance(given, tuple) else (given,) for name, given in configs.items()}
    return [pytest.param(*given, id=name, marks=[] if name in quick else pytest.mark.slow) for name, given in listed.items()]


@pytest.mark.parametrize("config", some_slow(CAUSAL, "performer-local"))
@torch.no_grad()
def test_causal_models_at_any_length(config: sq.BackboneConfig, tmp_path: Path) -> None:
    # A Feedback Transformer with large weights is chaotic: at 0.2, PyTorch's float32 and float64 are up to 0.14 apart after 211 tokens.
    model = sharp(sq.LanguageModel(config, vocab_size=11), 0.1 if isinstance(config, sq.FeedbackTransformerConfig) else 0.4)
    for name, parameter in model.named_parameters():
        if "decay_up" in name:  # some channels forget everything at once, whose decay is 0 in float32
            parameter.mul_(400)
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


@torch.no_grad()
def test_what_onnx_has_no_operator_for_is_a_program_of_pytorch_at_any_length() -> None:
    config = sq.PerformerConfig(**SMALL, features=4, estimator="dense", center=True, balance="full", causal=False)
    model = sharp(sq.LanguageModel(config, vocab_size=11))
    program = whole(model).exported().module()
    for batch, length in ((2, 2), (2, 5), (3, 64)):  # fewer than the channels of a head, and more
        tokens, mask = drawn("none", batch, length)
        torch.testing.assert_close(program(tokens, mask), model(tokens, mask=mask), rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(("encoder", "decoder"), some_slow(PAIRS, "transformer"))
@torch.no_grad()
def test_an_encoder_and_a_decoder_with_its_state(encoder: sq.BackboneConfig, decoder: sq.BackboneConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    limit = 400 if encoder.length_limit else None
    model = sharp(sq.EncoderDecoder(encoder, decoder, vocab_size=11, target_vocab_size=9, max_length=limit), 0.2)
    onnx(model, tmp_path / "out", piece_length=4)
    run = OnnxModel.load(tmp_path / "out")
    assert isinstance(run, OnnxEncoderDecoder)
    for (batch, length), kind in zip((*SHAPES, (0, 5)), (*MASKS, "none"), strict=True):
        source, read = drawn(kind, batch, length + 2)
        target, real = torch.randint(0, 9, (batch, length)), torch.rand(batch, length) > 0.2
        wanted = model(source, target, source_mask=read, target_mask=real)
        agree(wanted, run(source.numpy(), target.numpy(), source_mask=read.numpy(), target_mask=real.numpy()))
        ours, theirs = model.init_state(source=source, source_mask=read), run.init_state(source=source.numpy(), source_mask=read.numpy())
        for piece in (1, 6, 2, 1):
            target = torch.randint(0, 9, (batch, piece))
            wanted, ours = model.extend(target, ours)
            found, theirs = run.extend(target.numpy(), theirs)
            agree(wanted, found)
    source, start = torch.randint(0, 11, (2, 7)), torch.zeros(2, 1, dtype=torch.int64)
    wanted = model.generate(source, start, max_new_tokens=9, temperature=0)
    assert torch.equal(torch.from_numpy(run.generate(source.numpy(), start.numpy(), max_new_tokens=9)), wanted)


@torch.no_grad()
def test_models_of_transformers_and_of_other_dtypes_are_exported_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from subquadratic.hf import SubquadraticConfig, SubquadraticForMaskedLM, SubquadraticModel

    config = SubquadraticConfig(backbone=BIDIRECTIONAL["transformer"].to_dict(), vocab_size=11, tie_word_embeddings=True)
    model = sharp(SubquadraticForMaskedLM(config)).to(torch.bfloat16)
    onnx(model, tmp_path / "out")
    assert next(model.parameters()).dtype is torch.bfloat16
    tokens, mask = drawn("holes", 3, 17)
    agree(model.float()(tokens, attention_mask=mask.long()).logits, OnnxModel.load(tmp_path / "out")(tokens.numpy(), mask.numpy()))
    with pytest.raises(ValueError, match="got SubquadraticModel"):
        onnx(SubquadraticModel(config), "never")
    with pytest.raises(ValueError, match="merge_and_unload"):
        peft = pytest.importorskip("peft")
        onnx(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear")), "never")


@pytest.mark.slow  # a run is exported and read so in tests/cli/test_convert.py
@torch.no_grad()
def test_from_text_to_text_and_back_without_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from subquadratic.generation.decode import generate
    from subquadratic.hf.tokenizers import stock_tokenizer

    model = sharp(sq.LanguageModel(sq.TransformerConfig(**SMALL, positions="learned"), vocab_size=260, max_length=40))
    onnx(model, tmp_path / "out", tokenizer=stock_tokenizer(None, vocab_size=260))
    run = OnnxModel.load(tmp_path / "out")
    tokens, mask = run.encode(["né <|eos|>", "a"])
    assert tokens[0].tolist() == list("né <|eos|>".encode()) and mask.sum(axis=1).tolist() == [11, 1]
    assert run.decode(tokens[:1]) == ["né <|eos|>"]
    together = run.generate_text(["né <|eos|>", "a", ""], max_new_tokens=9)
    assert together == [run.generate_text(text, max_new_tokens=9) for text in ("né <|eos|>", "a", "")]
    written = generate(model, torch.tensor([[97]]), max_new_tokens=9, temperature=0.0, eos_token=258)[0, 1:].tolist()
    assert together[1] == bytes(token for token in written if token < 256).decode(errors="replace")
    without = tmp_path / "without"
    code = (
        "import sys; sys.modules['torch'] = None; from subquadratic.export.runner import OnnxModel;"
        f"print(repr(OnnxModel.load({str(tmp_path / 'out')!r}).generate_text('a', max_new_tokens=9)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == repr(together[1]), done.stderr
    with pytest.raises(ValueError, match=r"41 positions, but max_length is 40"):
        run(np.zeros((1, 41), dtype=int))
    with pytest.raises(ValueError, match=r"positions, but max_length"):
        run.generate(np.zeros((1, 30), dtype=int), max_new_tokens=12)
    with pytest.raises(ValueError, match="vocab_size=260, got 0 to 260"):
        run(np.array([[0, 260]]))
    with pytest.raises(ValueError, match="as many rows as tokens, 2"):
        run.extend(np.zeros((2, 1), dtype=int), run.init_state(1))
    with pytest.raises(ValueError, match=r"state must have .* differs in state\.seen"):
        run.extend(np.zeros((1, 1), dtype=int), {name: value for name, value in run.init_state(1).items() if name != "state.seen"})
    onnx(model, without)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        OnnxModel.load(without).generate_text("a")
    (without / "tokenizer.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"tokenizer\.json"):
        onnx(model, without, overwrite=True)
    assert (without / "tokenizer.json").read_text() == "mine"
    onnx(model, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


@pytest.mark.slow
@torch.no_grad()
def test_weights_in_8_bits_stay_in_them(tmp_path: Path) -> None:
    model = sq.LanguageModel(sq.PerformerConfig(dim=64, depth=1, heads=2, features=8), vocab_size=11)
    sizes = []
    for name in ("a", "b"):
        onnx(model.eval(), tmp_path / name)
        sizes.append((tmp_path / name / "weights.bin").stat().st_size)
        if name == "a":
            sq.quantize_(model)
    tokens, _ = drawn("none", 2, 33)
    agree(model(tokens), OnnxModel.load(tmp_path / "b")(tokens.numpy()))
    assert sizes[1] < 0.3 * sizes[0]


def test_refused(tmp_path: Path) -> None:
    for wanted, model in (
        ("PerceiverAR is not exported to ONNX.*run it with PyTorch", sq.LanguageModel(sq.PerceiverARConfig(**SMALL, latents=4))),
        ("give the EncoderDecoder", sq.LanguageModel(sq.PerformerConfig(**CROSSED))),
        ("causal=False", sq.EncoderDecoder(sq.PerformerConfig(**SMALL), sq.PerformerConfig(**CROSSED))),
        ('balance="full" computes eigenvalues', sq.LanguageModel(sq.PerformerConfig(**SMALL, causal=False, balance="full", center=True))),
        ("got Linear", torch.nn.Linear(2, 2)),
    ):
        with pytest.raises(ValueError, match=wanted):
            onnx(model, tmp_path / "new")
    with pytest.raises(ValueError, match="tokenizer must be a fast tokenizer"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL)), tmp_path / "new", tokenizer="bytes")
    (tmp_path / "weights.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"weights\.bin"):
        onnx(sq.LanguageModel(sq.PerformerConfig(**SMALL)), tmp_path, overwrite=True)
    assert (tmp_path / "weights.bin").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="not an exported model"):
        OnnxModel.load(tmp_path)
