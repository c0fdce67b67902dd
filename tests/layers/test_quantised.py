"""Models whose maps torchao holds in 8 bits: weights that are no plain tensors, which no fast path may read past their type."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import subquadratic as sq

torchao = pytest.importorskip("torchao.quantization")
SMALL = {"dim": 64, "depth": 2, "heads": 2}
CONFIGS = {
    "performer": sq.PerformerConfig(**SMALL, features=16),
    "fastformer": sq.FastformerConfig(**SMALL),
    "gated-linear": sq.GatedLinearConfig(**SMALL),
    "feedback": sq.FeedbackTransformerConfig(**SMALL),
    "transformer": sq.TransformerConfig(**SMALL),
}


def in_8_bits(model: torch.nn.Module) -> torch.nn.Module:
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert any(type(parameter).__name__ == "Int8Tensor" for parameter in model.parameters())
    return model


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_language_models(config: sq.BackboneConfig) -> None:
    torch.manual_seed(0)
    model, prompt = sq.LanguageModel(config, vocab_size=260).eval(), torch.randint(0, 260, (2, 20))
    exact = model(prompt)
    model.generate(prompt, max_new_tokens=6, temperature=0)  # which records a step of the model with plain weights
    in_8_bits(model)
    assert 1e-5 < relative_error(model(prompt), exact) < 0.02
    text = prompt
    for _ in range(12):
        text = torch.cat((text, model(text)[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(model.generate(prompt, max_new_tokens=12, temperature=0), text)


@torch.no_grad()
def test_weights_are_saved_by_torch_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokens = in_8_bits(sq.LanguageModel(CONFIGS["performer"], vocab_size=260).eval()), torch.randint(0, 260, (2, 20))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = sq.LanguageModel(CONFIGS["performer"], vocab_size=260).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), assign=True)
    assert torch.equal(other(tokens), model(tokens))


def test_our_own_folders_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Int8Tensor.*torch\.save"):
        in_8_bits(sq.LanguageModel(CONFIGS["performer"], vocab_size=260)).save_pretrained(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def test_models_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from subquadratic.hf import SubquadraticForCausalLM

    torch.manual_seed(0)
    model, tokens = sq.LanguageModel(CONFIGS["performer"], vocab_size=260).eval(), torch.randint(0, 260, (2, 20))
    model.save_pretrained(tmp_path / "run")
    wanted = transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig())
    small = SubquadraticForCausalLM.from_pretrained(tmp_path / "run", quantization_config=wanted).eval()
    assert any(type(parameter).__name__ == "Int8Tensor" for parameter in small.parameters())
    logits = small(tokens).logits
    assert 1e-5 < relative_error(logits, model(tokens)) < 0.02
    text = tokens
    for _ in range(8):
        text = torch.cat((text, small(text).logits[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(small.generate(tokens, max_new_tokens=8, do_sample=False), text)
    small.save_pretrained(tmp_path / "small")
    assert (tmp_path / "small" / "model.safetensors").stat().st_size < 0.6 * (tmp_path / "run" / "model.safetensors").stat().st_size
    assert torch.equal(SubquadraticForCausalLM.from_pretrained(tmp_path / "small").eval()(tokens).logits, logits)
