"""Models in 8 bits: near the float32 ones, saved and loaded bit for bit, and the same in a stream as at once."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquadratic as sq
from subquadratic.heads.quantization import is_quantized, parameter_count
from subquadratic.kernels.native import library
from subquadratic.layers.linear.int8 import Int8Embedding, Int8Linear, to_int8
from subquadratic.models import performer

SMALL: dict[str, Any] = {"dim": 64, "depth": 2, "heads": 2}
CONFIGS: dict[str, Any] = {
    "performer": sq.PerformerConfig(**SMALL, features=16),
    "local heads": sq.PerformerConfig(**SMALL, features=16, local_heads=1, local_window=8, ff_glu=True, norm="rezero"),
    "bidirectional performer": sq.PerformerConfig(**SMALL, features=16, causal=False),
    "linformer": sq.LinformerConfig(**SMALL, max_length=64, slots=8),
    "fastformer": sq.FastformerConfig(**SMALL),
    "bidirectional fastformer": sq.FastformerConfig(**SMALL, causal=False),
    "feedback": sq.FeedbackTransformerConfig(**SMALL),
    "feedback segments": sq.FeedbackTransformerConfig(**SMALL, segment_length=3, share_key_value=False),
    "gated linear": sq.GatedLinearConfig(**SMALL),
    "gated linear, fixed": sq.GatedLinearConfig(**SMALL, decay="fixed"),
    "perceiver": sq.PerceiverARConfig(**SMALL, latents=40),
    "transformer": sq.TransformerConfig(**SMALL, positions="learned"),
    "odd widths": sq.PerformerConfig(dim=45, depth=1, heads=3, head_dim=14, features=7, ff_mult=1.5),
}
LONG = 40


def language_model(name: str, **options: Any) -> sq.LanguageModel:
    torch.manual_seed(0)
    options = {"max_length": 64} | options if name == "transformer" else options
    model = sq.LanguageModel(CONFIGS[name], vocab_size=61, **options).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Linear):  # as after training: outputs that depend on every map
                part.weight.normal_(std=part.in_features**-0.5)
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(1))


def size_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_outputs_are_near_and_all_maps_are_held(name: str, tied: bool) -> None:
    """Of the rounded weights a float32 model gives the same, to float32's digits."""
    model, given = language_model(name, tie_embeddings=tied), tokens(2, LONG)
    exact, parameters = model(given), parameter_count(model)
    rounded = copy.deepcopy(model)
    for part in rounded.modules():
        if isinstance(part, nn.Linear) or part is rounded.embedding.table:
            held, scale = to_int8(part.weight)
            part.weight.copy_(held * scale[:, None])
    assert sq.quantize_(model, "int8") is model and is_quantized(model) and parameter_count(model) == parameters
    assert not any(isinstance(part, nn.Linear) for part in model.modules()) and isinstance(model.embedding.table, Int8Embedding)
    assert 1e-5 < relative_error(model(given), exact) < 0.06
    mask = torch.ones(2, LONG, dtype=torch.bool)
    mask[0, :7] = False
    for piece in (slice(None), slice(5)):  # many rows, and few
        for where in (None, mask[:, piece]):
            torch.testing.assert_close(model(given[:, piece], mask=where), rounded(given[:, piece], mask=where), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.causal])
@torch.no_grad()
def test_a_stream_is_the_whole_sequence(name: str) -> None:
    model, given = sq.quantize_(language_model(name)), tokens(2, LONG)
    whole, state, pieces = model(given), model.init_state(2), []
    for piece in given.split([17, *[1] * 12, LONG - 29], dim=1):
        logits, state = model.extend(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1)[:, -whole.shape[1] :], whole, rtol=1e-4, atol=1e-4)
    text = given[:, :5]
    for _ in range(9):
        text = torch.cat((text, model(text)[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(model.generate(given[:, :5], max_new_tokens=9, temperature=0), text)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.causal and name != "perceiver"])
@torch.no_grad()
def test_no_later_token_changes_a_bit(name: str) -> None:
    model, given = sq.quantize_(language_model(name)), tokens(2, LONG)
    other = torch.cat((given[:, :23], given[:, 23:].flip(1)), dim=1)
    assert torch.equal(model(other)[:, :23], model(given)[:, :23])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_saved_loaded_and_saved_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = sq.quantize_(language_model(name, tie_embeddings=name == "fastformer")), tokens(2, LONG)
    model.save_pretrained(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["quantize"] == "int8"
    with monkeypatch.context() as patched:
        patched.setattr(Int8Linear, "of", None)  # nothing is rounded again
        again = sq.load(tmp_path / "a")
        assert isinstance(sq.load(tmp_path / "a", quantize="int8"), sq.LanguageModel)
    assert torch.equal(again(given), model(given)) and not again.training
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()


@torch.no_grad()
def test_quantised_while_it_is_loaded(tmp_path: Path) -> None:
    model, given = language_model("performer"), tokens(1, 20)
    model.save_pretrained(tmp_path)
    held, low = sq.load(tmp_path, quantize="int8"), sq.load(tmp_path, quantize="int8", dtype="bfloat16")
    assert torch.equal(held(given), sq.quantize_(copy.deepcopy(model))(given))
    first, second = (part.backbone.stack.blocks[0]["feed_forward"].layer.expand for part in (held, low))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.scale, second.scale), "rounded from what was saved"
    assert low(given).dtype is torch.bfloat16 and relative_error(low(given).float(), held(given)) < 0.1


@torch.no_grad()
def test_a_model_in_bfloat16_comes_back_in_it(tmp_path: Path) -> None:
    model, given = sq.quantize_(language_model("performer", tie_embeddings=True).bfloat16()), tokens(1, 20)
    model.save_pretrained(tmp_path)
    assert torch.equal(sq.load(tmp_path)(given), model(given)) and model(given).dtype is torch.bfloat16
    wide = sq.load(tmp_path, dtype="float32")
    assert wide(given).dtype is torch.float32 and relative_error(model(given).float(), wide(given)) < 0.1


@torch.no_grad()
def test_other_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier, given = sq.SequenceClassifier(sq.FastformerConfig(**SMALL, causal=False), vocab_size=61, num_classes=3).eval(), tokens(2, 9)
    pair = sq.EncoderDecoder(
        sq.LinformerConfig(**SMALL, causal=False, max_length=20, slots=4), sq.PerformerConfig(**SMALL, cross_attention=True), vocab_size=61
    ).eval()
    for model, arguments in ((classifier, (given,)), (pair, (given, given))):
        exact = model(*arguments)
        assert 1e-5 < relative_error(sq.quantize_(model)(*arguments), exact) < 0.05
        model.save_pretrained(tmp_path / type(model).__name__)
        assert torch.equal(sq.load(tmp_path / type(model).__name__)(*arguments), model(*arguments))


@torch.no_grad()
def test_memory_of_a_wide_model() -> None:
    model = sq.LanguageModel(sq.PerformerConfig(dim=512, depth=2, heads=8), vocab_size=2000)
    before = size_of(model)
    assert size_of(sq.quantize_(model)) < 0.27 * before


@torch.no_grad()
def test_loading_does_not_take_the_memory_of_float32_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing weights would write into them, and so take memory."""
    sq.quantize_(language_model("performer")).save_pretrained(tmp_path)
    drawn: list[tuple[int, ...]] = []
    own = Tensor.normal_, Tensor.uniform_
    monkeypatch.setattr(Tensor, "normal_", lambda x, *given, **named: (drawn.append(tuple(x.shape)), own[0](x, *given, **named))[1])
    monkeypatch.setattr(Tensor, "uniform_", lambda x, *given, **named: (drawn.append(tuple(x.shape)), own[1](x, *given, **named))[1])
    sq.LanguageModel(CONFIGS["performer"], vocab_size=61)
    assert (256, 64) in drawn, "what is listened to is what draws weights"
    drawn.clear()
    sq.load(tmp_path)
    assert not [shape for shape in drawn if len(shape) == 2 and 64 in shape]


@pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 6, 30])
def test_a_performers_token_is_one_operation(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    own = performer.step_at_once
    monkeypatch.setattr(performer, "step_at_once", lambda *given: (found := own(*given), taken.append(found is not None))[0])
    model, given = sq.quantize_(language_model("performer")), tokens(rows, 6)
    state, found = model.init_state(rows), []
    for piece in given.split(1, dim=1):
        logits, state = model.extend_by_call(piece, state)
        found.append(logits)
    assert taken and all(taken)
    torch.testing.assert_close(torch.cat(found, dim=1), model(given), rtol=1e-4, atol=1e-4)


def test_training_is_refused() -> None:
    for name in ("performer", "feedback", "transformer"):
        model = sq.quantize_(language_model(name))
        assert not model.training
        with pytest.raises(ValueError, match=r"8 bits.*cannot be trained"):
            model.train().loss(tokens(2, LONG))
        model.eval().loss(tokens(2, LONG))


def test_what_cannot_be_quantised_is_said(tmp_path: Path) -> None:
    model = language_model("performer")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"quantize must be 'int8', got 'int4'"):
        sq.quantize_(model, "int4")
    with pytest.raises(ValueError, match=r"quantize must be 'int8', got 'int4'"):
        sq.load(tmp_path, quantize="int4")
    expand = model.backbone.stack.blocks[1]["feed_forward"].layer.expand
    handle = expand.register_forward_hook(lambda *given: None)
    with pytest.raises(ValueError, match=r"blocks\.1\.feed_forward\.layer\.expand cannot be quantised.*hooks"):
        sq.quantize_(model)
    handle.remove()
    nn.utils.parametrizations.weight_norm(expand)
    with pytest.raises(ValueError, match=r"expand cannot be quantised.*adapter"):
        sq.quantize_(model)
    twin = pytest.importorskip("subquadratic.compat.linformer").Linformer(dim=16, seq_len=8, depth=1, heads=2, k=4)
    with pytest.raises(ValueError, match=r"the model cannot be quantised: it is a subquadratic\.compat\.linformer"):
        sq.quantize_(twin)
    broken = language_model("performer")
    with torch.no_grad():
        broken.head.weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        sq.quantize_(broken)
    assert not is_quantized(broken), "nothing was changed"
    with pytest.raises(ValueError, match="quantised already"):
        sq.quantize_(sq.quantize_(language_model("performer")))
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"quantize": "int2"}))
    with pytest.raises(ValueError, match="quantize='int2', which this version does not read"):
        sq.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content | {"quantize": "int8"}))
    with pytest.raises(ValueError, match="does not fit"):
        sq.load(tmp_path)


@torch.no_grad()
def test_a_state_dict_fits_another_model_in_8_bits() -> None:
    first, second = sq.quantize_(language_model("performer")), sq.quantize_(sq.LanguageModel(CONFIGS["performer"], vocab_size=61))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(tokens(1, 9)), first(tokens(1, 9)))
    assert torch.equal(copy.deepcopy(first)(tokens(1, 9)), first(tokens(1, 9)))
