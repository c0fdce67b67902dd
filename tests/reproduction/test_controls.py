"""Controls of trained claims: without attention, positions know nothing of each other; a model that reads the future is found out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subquadratic import models
from subquadratic.attention.additive.layer import AdditiveAttention
from subquadratic.attention.latent.layer import LatentAttention
from subquadratic.attention.low_rank.layer import LowRankAttention
from subquadratic.heads.language_model import LanguageModel
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import Condition, Setting
from subquadratic.reproduction.conditions import needs_attention, no_leak
from subquadratic.reproduction.experiments import additive, copying, language, published, sequences
from subquadratic.reproduction.experiments.controls import leak, spread, without_attention_

SIZES: dict[str, Any] = dict(dim=32, depth=2, heads=2)
CAUSAL = {
    "exact attention": models.TransformerConfig(**SIZES),
    "Performer": models.PerformerConfig(**SIZES),
    "gated linear": models.GatedLinearConfig(**SIZES),
    "Linformer": models.LinformerConfig(**SIZES, max_length=24, slots=8),
    "Fastformer": models.FastformerConfig(**SIZES),
    "Feedback": models.FeedbackTransformerConfig(**SIZES, memory_length=16),
    "Perceiver AR": models.PerceiverARConfig(**SIZES, latents=16),
}
LEAST = Setting(seed=0, effort=1e-3)


def model_of(config: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(config, vocab_size=256, max_length=24)
    nn.init.normal_(model.head.weight)  # heads begin with zeros, which would hide everything
    return model.eval()


def moved(model: LanguageModel) -> Tensor:
    """How far logits of each place move when the first tokens become others."""
    tokens = torch.randint(256, (2, 24))
    other = torch.cat(((tokens[:, :4] + 100) % 256, tokens[:, 4:]), dim=1)
    with torch.no_grad():
        return (model(other) - model(tokens)).abs().amax(dim=(0, 2))[-16:]


@pytest.mark.parametrize("name", CAUSAL)
def test_without_attention_places_know_nothing_of_each_other(name: str) -> None:
    model = model_of(CAUSAL[name])
    assert moved(model).max() > 1e-3
    assert moved(without_attention_(model)).max() == 0


def test_a_model_of_others_has_no_attention_to_switch_off() -> None:
    with pytest.raises(ValueError, match="Linear has no attention layer"):
        without_attention_(nn.Linear(2, 2))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_does_not_leak(name: str) -> None:
    tokens = torch.randint(256, (2, 24))
    model = model_of(CAUSAL[name])
    assert no_leak().met(leak(model, tokens)) is True
    ahead = model.backbone.forward
    model.backbone.forward = lambda x, **given: ahead(x + x.roll(-4, dims=1), **given)
    assert no_leak().met(leak(model, tokens)) is False


def test_the_interval_is_that_of_student() -> None:
    mean, margin = spread([1.0, 2.0, 3.0])
    assert mean == 2 and margin == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert math.isnan(spread([1.0])[1])


def test_what_a_token_of_an_urn_says_is_what_a_model_without_attention_can_know() -> None:
    rows = sequences.urns(64, 400, seed=0, symbols=8, drawn=3)
    assert {len(row.unique()) for row in rows} == {3}
    pairs = torch.zeros(8, 8, dtype=torch.float64)
    for row in sequences.urns(4000, 2, seed=1, symbols=8, drawn=3):
        pairs[row[0], row[1]] += 1
    conditional = pairs / pairs.sum(dim=1, keepdim=True)
    entropy = -(pairs / pairs.sum() * conditional.clamp_min(1e-12).log()).sum()
    assert sequences.alone(8, 3) == pytest.approx(float(entropy), abs=0.03)


def test_the_class_of_a_row_is_how_often_its_first_token_comes_again() -> None:
    rows = sequences.counted(256, 33, seed=0, symbols=4, classes=4)
    again = (rows["tokens"][:, 1:] == rows["tokens"][:, :1]).double().mean(dim=1)
    assert (rows["labels"] == (again / 0.75 * 4).long().clamp(max=3)).all()
    assert rows["labels"].bincount().max() < 160


def quickly_copied(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(copying, "LENGTHS", (9,))
    monkeypatch.setattr(copying, "SEEDS", 1)
    monkeypatch.setattr(copying, "STEPS", 120)
    monkeypatch.setattr(copying, "SYMBOLS", 8)
    monkeypatch.setattr(copying, "SIZES", {**copying.SIZES, "dim": 64})
    copying._copied.cache_clear()
    try:
        return copying.mirror(Setting()).numbers
    finally:
        copying._copied.cache_clear()


def test_a_mirror_needs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = needs_attention(0.5, "")
    numbers = quickly_copied(monkeypatch)
    assert numbers["accuracy at 9"] > 0.95 and worth.met(numbers["attention"]) and numbers["leak"] < 1e-3
    own = LatentAttention.forward
    monkeypatch.setattr(LatentAttention, "forward", lambda self, *args, **given: 0 * own(self, *args, **given))
    assert worth.met(quickly_copied(monkeypatch)["attention"]) is False


def test_a_mirror_that_sees_itself_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.attention.latent import layer

    own = layer.softmax_attention
    monkeypatch.setattr(layer, "softmax_attention", lambda *args, causal, **given: own(*args, causal=False, **given))
    assert no_leak().met(quickly_copied(monkeypatch)["leak"]) is False


def conditions(claim: str) -> dict[str, Condition]:
    return {condition.number: condition for condition in CLAIMS[claim].conditions}


@pytest.fixture(autouse=True)
def _one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SEEDS", 1)


def answers(claim: str, setting: Setting) -> dict[str, bool | None]:
    outcome = CLAIMS[claim].measure(setting)
    if outcome.measurement.unavailable:
        pytest.skip(outcome.measurement.unavailable)
    return dict(zip(conditions(claim), outcome.met, strict=True))


@pytest.mark.slow
def test_our_linformer_beside_the_package_needs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def worth() -> float:
        measurement = CLAIMS["published.linformer"].measure(Setting(effort=0.25)).measurement
        return pytest.skip(measurement.unavailable) if measurement.unavailable else measurement.numbers["attention"]

    condition = conditions("published.linformer")["attention"]
    assert condition.met(worth()) is True
    own = LowRankAttention.forward
    monkeypatch.setattr(LowRankAttention, "forward", lambda self, *args, **given: 0 * own(self, *args, **given))
    assert condition.met(worth()) is False


def test_our_perceiver_beside_the_package_may_not_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.attention.latent import layer

    assert answers("published.perceiver", LEAST)["leak"] is True
    own = layer.softmax_attention
    monkeypatch.setattr(layer, "softmax_attention", lambda *args, causal, **given: own(*args, causal=False, **given))
    assert answers("published.perceiver", LEAST)["leak"] is False


def test_our_fastformer_may_not_have_the_slip_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(effort=0.005)
    assert answers("published.fastformer", setting)["slip"] is True
    monkeypatch.setattr(AdditiveAttention, "_mix", additive.RawKeyAttention._mix)
    assert answers("published.fastformer", setting)["slip"] is False


def test_a_twin_that_is_off_by_a_hundredth_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = pytest.importorskip("subquadratic.compat.linformer").LinformerLM
    own, setting = twin.forward, Setting(effort=0.005)
    assert answers("published.linformer", setting)["twin"] is True
    monkeypatch.setattr(twin, "forward", lambda self, *args, **given: 1.01 * own(self, *args, **given))
    assert answers("published.linformer", setting)["twin"] is False


def test_the_cost_of_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = CLAIMS["published.performer"].measure(LEAST).measurement
    if measurement.unavailable:
        pytest.skip(measurement.unavailable)
    assert "published less twin" in measurement.numbers and "nats" in measurement.finding


def test_a_model_of_the_last_bytes_alone_gains_nothing_from_more() -> None:
    class LastTwo(nn.Module):
        def token_losses(self, tokens: Tensor, *, scored: Tensor) -> tuple[Tensor]:
            last = torch.nn.functional.pad(tokens, (2, 0))[:, :-2] * 7 + torch.nn.functional.pad(tokens, (1, 0))[:, :-1]
            return (((last + tokens) % 11).float()[scored],)

    text = torch.randint(256, (3, language.LENGTH))
    bits = [language._bits(LastTwo(), text, context) for context in language.CONTEXTS]  # type: ignore[arg-type]
    for other in bits[1:]:
        torch.testing.assert_close(other, bits[0])


def test_a_stream_predicts_what_windows_do() -> None:
    model = model_of(models.GatedLinearConfig(**SIZES))
    text = torch.randint(256, (24,))
    stream = language._stream_bits(model, text)
    whole = model.token_losses(text[None])[0].double() / math.log(2)
    torch.testing.assert_close(stream, whole, atol=1e-4, rtol=1e-4)
