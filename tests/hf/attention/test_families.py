"""Each family with tiny random weights: window and Linformer equal exact attention where they see everything, FAVOR+ approaches it."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

import transformers as t
from tests.hf.attention.models import BASE, GROUPED, RIGHT, TOKENS, build, families

from subquadratic.hf.attention import NAMES, check, configure
from subquadratic.hf.attention.options import FAVOR, LINFORMER, WINDOW

FAMILIES = families()
ENCODERS = ("bert", "roberta", "modernbert", "vit", "wav2vec2")


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output = model(**inputs)[0]
    return output[inputs["attention_mask"].bool()] if "attention_mask" in inputs else output


def relative(output: Tensor, expected: Tensor) -> float:
    return ((output - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "whisper"])
def test_a_window_that_sees_everything_is_exact(family: str) -> None:
    model_class, config, inputs = FAMILIES[family]
    exact = build(model_class, config, "eager")
    model = build(model_class, config, WINDOW, like=exact, window=64)
    assert relative(outputs(model, inputs), outputs(exact, inputs)) < 1e-5
    assert set(check(model, **inputs).called.values()) == {WINDOW}


@pytest.mark.parametrize("family", ENCODERS)
def test_linformer_with_a_slot_for_every_token_is_exact(family: str) -> None:
    model_class, config, inputs = FAMILIES[family]
    exact = build(model_class, config, "eager")
    model = build(model_class, config, LINFORMER, like=exact, slots=512)
    assert relative(outputs(model, inputs), outputs(exact, inputs)) < 1e-5
    configure(model, slots=3)
    assert relative(outputs(model, inputs), outputs(exact, inputs)) > 1e-3  # and with fewer it is not


@pytest.mark.parametrize("family", FAMILIES)
def test_favor_approaches_exact_attention(family: str) -> None:
    """The error falls with the number of features; layers with a sliding window of their own are exact at once."""
    model_class, config, inputs = FAMILIES[family]
    exact = build(model_class, config, "eager")
    model = build(model_class, config, FAVOR, like=exact, features=16)
    expected = outputs(exact, inputs)
    few = torch.tensor([relative(outputs(seeded(model, seed, 16), inputs), expected) for seed in range(3)]).mean()
    many = torch.tensor([relative(outputs(seeded(model, seed, 2048), inputs), expected) for seed in range(3)]).mean()
    assert few < 1e-5 if family == "mistral" else many < 0.6 * few
    assert set(check(model, **inputs).called.values()) == {FAVOR}


def seeded(model: nn.Module, seed: int, features: int) -> nn.Module:
    configure(model, seed=seed, features=features)
    return model


REFUSED = {
    "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config(**GROUPED, head_dim=8), "softcap"),
    "t5": (t.T5EncoderModel, t.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4), "position_bias"),
    "gpt_oss": (t.GptOssForCausalLM, t.GptOssConfig(**GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1), "s_aux"),
    "bloom": (t.BloomForCausalLM, t.BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=4), "for itself"),
}


@pytest.mark.parametrize("implementation", NAMES)
@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(family: str, implementation: str) -> None:
    model_class, config, why = REFUSED[family]
    model = build(model_class, config, implementation)
    with pytest.raises(NotImplementedError, match=why) as refusal:
        model(TOKENS, attention_mask=RIGHT)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("shared", [False, True])
def test_position_biases_that_become_the_mask_are_refused(shared: bool) -> None:
    image = {key: value for key, value in BASE.items() if key != "vocab_size"}
    biases = {"use_relative_position_bias": not shared, "use_shared_relative_position_bias": shared}
    model = build(t.BeitModel, t.BeitConfig(**image, image_size=32, patch_size=8, **biases), FAVOR)
    with pytest.raises(NotImplementedError, match="relative_position_bias=True, which adds a bias"):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert decoder", "gemma3", "whisper"])
def test_linformer_refuses_causal_attention(family: str) -> None:
    model_class, config, inputs = FAMILIES[family]
    model = build(model_class, config, LINFORMER)
    with pytest.raises(NotImplementedError, match="is causal"):
        model(**inputs)


def test_window_refuses_attention_to_another_sequence() -> None:
    model_class, config, inputs = FAMILIES["whisper"]
    for length in (20, 30):  # as many as the encoder's positions, too
        tokens = TOKENS.repeat(1, 2)[:, :length]
        with pytest.raises(NotImplementedError, match="another sequence"):
            build(model_class, config, WINDOW)(input_features=inputs["input_features"], decoder_input_ids=tokens)


def test_an_architecture_that_never_calls_the_interface_cannot_be_configured() -> None:
    config = t.DebertaConfig(**{**BASE, "num_hidden_layers": 1})
    model = build(t.DebertaModel, config, FAVOR)
    with pytest.raises(NotImplementedError, match="never calls"):
        configure(model, features=64)
    with pytest.raises(RuntimeError, match="called none of"):
        check(model)


def test_check_finds_parts_that_compute_otherwise() -> None:
    config = t.CLIPConfig(
        text_config={**BASE, "projection_dim": 16, "eos_token_id": 2},
        vision_config={**{key: value for key, value in BASE.items() if key != "vocab_size"}, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = build(t.CLIPModel, config, {"text_config": FAVOR, "vision_config": "sdpa"})
    inputs = {"input_ids": TOKENS, "pixel_values": torch.randn(2, 3, 32, 32)}
    with pytest.raises(RuntimeError, match=r"2 do not .*vision_model"):
        check(model, **inputs)
    report = check(model, partial=True, **inputs)
    assert len(report.called) == 2 and all("vision" in name for name in report.silent)
