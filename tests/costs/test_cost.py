"""Costs on shapes against the real thing: saved tensors, the allocator's peak, operations by hand."""

import dataclasses
import time
from typing import Any

import pytest
import torch
from torch import nn

import subquadratic as sq
from subquadratic.costs.abstract_run import abstract_run
from subquadratic.costs.cost import costs_along, decode_cost, training_cost
from subquadratic.heads.quantization import parameter_count

SIZES: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2}
CONFIGS = {
    "performer": sq.PerformerConfig(**SIZES, features=16, local_heads=1, local_window=16, token_shift=True),
    "masked performer": sq.PerformerConfig(**SIZES, causal=False),
    "reversible performer": sq.PerformerConfig(**SIZES, reversible=True),
    "linformer": sq.LinformerConfig(**SIZES, max_length=512, slots=16),
    "fastformer": sq.FastformerConfig(**SIZES),
    "feedback_transformer": sq.FeedbackTransformerConfig(**SIZES, segment_length=8, memory_length=24),
    "perceiver_ar": sq.PerceiverARConfig(**SIZES, latents=16),
    "transformer": sq.TransformerConfig(**SIZES),
    "windowed transformer": sq.TransformerConfig(**SIZES, window=16),
    "checkpointed transformer": sq.TransformerConfig(**SIZES, checkpointing=True),
}
CAUSAL = [name for name, config in CONFIGS.items() if config.causal and not config.reversible and not config.checkpointing]


def build(name: str, device: str = "meta", **changes: Any) -> sq.LanguageModel:
    config = CONFIGS[name].replace(**changes)
    with torch.device(device):
        return sq.LanguageModel(config, vocab_size=64, max_length=512 if config.positions == "learned" else None)


def saved_bytes(model: sq.LanguageModel, tokens: torch.Tensor) -> int:
    """What autograd keeps of a real forward pass, parameters and tokens left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), tokens]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(tokens)
        found = sum(storage.nbytes() for storage in kept.values())
        loss.backward()
    return found


def peak_bytes(model: sq.LanguageModel, tokens: torch.Tensor) -> int:
    """The most that the allocator held at once in a real step, over what it held before."""
    model.loss(tokens).backward()  # so that gradients are there
    with torch.profiler.profile(profile_memory=True) as profile:
        model.loss(tokens).backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("name", CONFIGS)
def test_a_real_step_keeps_and_takes_what_was_foretold(name: str) -> None:
    cost = training_cost(build(name), batch_size=2, length=96)
    model, tokens = build(name, "cpu"), torch.zeros(2, 96, dtype=torch.int64)
    if name != "feedback_transformer" and not model.config.reversible:  # these keep tensors by other ways than autograd's
        assert cost.activation_bytes == pytest.approx(saved_bytes(model, tokens), rel=0.12)
    assert cost.activation_bytes + cost.temporary_bytes == pytest.approx(peak_bytes(model, tokens), rel=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_to_the_last(name: str) -> None:
    real = build(name, "cpu")
    cost = training_cost(build(name), batch_size=1, length=20)
    trained = sum(parameter.numel() for parameter in real.parameters())
    assert cost.parameters == parameter_count(real) == trained
    tensors = sum(tensor.nbytes for tensor in [*real.parameters(), *real.buffers()])
    assert (cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_bytes) == (tensors, 4 * trained, 8 * trained)
    parts = [getattr(cost, field.name) for field in dataclasses.fields(cost) if field.name.endswith("_bytes")]
    assert cost.total_bytes == int(1.1 * (sum(parts) - cost.total_bytes))


@pytest.mark.parametrize("name", CAUSAL)
def test_the_state_is_as_large_as_foretold(name: str) -> None:
    real = build(name, "cpu").eval()
    with torch.no_grad():
        _, state = real.extend(torch.zeros(2, 40, dtype=torch.int64), real.init_state(2))
    foretold = decode_cost(build(name), context=40, batch_size=2)
    assert foretold.state_bytes == pytest.approx(state.nbytes(), rel=0 if name != "windowed transformer" else 0.01)


def test_operations_of_a_transformer_by_hand() -> None:
    length, dim, depth, vocabulary = 50, 32, 2, 64
    read = length - 1  # the last token is predicted only
    maps = depth * read * dim * dim * (4 + 2 * 4)  # queries, keys, values and output; the feed-forward layer, 4 times as wide
    attention = depth * 2 * read * read * dim
    logits = read * dim * vocabulary
    forward = 2 * (maps + attention + logits)
    cost = training_cost(build("transformer"), batch_size=1, length=length)
    assert cost.forward_flops == forward + 2 * 2 * logits  # the loss makes its gradients on the way
    # Backward: every product twice, and attention's scores once more, since they were not kept.
    assert cost.flops == 3 * forward + 2 * depth * read * read * dim


@pytest.mark.parametrize("name", ["fastformer", "perceiver_ar", "transformer", "feedback_transformer"])
@pytest.mark.parametrize("batch", [2, 12])  # 12: so many predictions that the cross-entropy is computed in pieces
def test_long_sequences_follow_from_shorter_ones(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 100 if name == "feedback_transformer" else 1500
    with abstract_run(build(name, depth=1), gradients=True) as run:
        loss = run.model.loss(torch.zeros(batch, length, dtype=torch.int64))
        kept = run.ledger.live
        loss.backward()
        direct = (run.ledger.flops, kept)
    monkeypatch.setattr("subquadratic.costs.cost.TRAINING", 256)
    fitted = training_cost(build(name, depth=1), batch_size=batch, length=length)
    assert fitted.extrapolated
    assert (fitted.flops, fitted.activation_bytes) == pytest.approx(direct, rel=0.02)


def test_quick_costs_agree_with_exact_ones() -> None:
    """Also for a model whose costs change their law at a length that is among the shortest."""
    with torch.device("meta"):
        model = sq.LanguageModel(sq.PerceiverARConfig(dim=32, depth=1, heads=2, latents=256), vocab_size=64)
    lengths = [256, 512, 2048, 3000]
    for length, (step, after) in zip(lengths, costs_along(model, lengths=lengths), strict=True):
        exact = training_cost(model, batch_size=1, length=length)
        assert (step.flops, step.activation_bytes) == pytest.approx((exact.flops, exact.activation_bytes), rel=0.02)
        assert after is not None
        assert after.flops == pytest.approx(decode_cost(model, context=length - 1).flops, rel=0.02)


def test_other_heads_and_lower_precision() -> None:
    with torch.device("meta"):
        classifier = sq.SequenceClassifier(CONFIGS["masked performer"], num_classes=3)
        decoder = sq.PerformerConfig(**SIZES, cross_attention=True)
        translator = sq.EncoderDecoder(sq.TransformerConfig(**SIZES, causal=False), decoder)
    assert training_cost(classifier, batch_size=2, length=30).flops > 0
    assert training_cost(translator, batch_size=2, length=30).parameters == parameter_count(translator)
    assert decode_cost(translator, context=30).state_bytes > 0
    full, half = (training_cost(build("transformer"), batch_size=2, length=64, precision=kind) for kind in ("float32", "bfloat16"))
    assert 0.4 * full.activation_bytes < half.activation_bytes < 0.95 * full.activation_bytes


def test_nothing_is_allocated_and_nothing_is_changed() -> None:
    config = sq.TransformerConfig(dim=32768, depth=5, heads=64)  # 64 G parameters
    with torch.device("meta"):
        model = sq.LanguageModel(config, vocab_size=260, tie_embeddings=True)
    random = torch.get_rng_state()
    started = time.monotonic()
    cost = training_cost(model, batch_size=1, length=128)
    assert cost.total_bytes > 16 * cost.parameters > 16 * 60e9
    assert time.monotonic() - started < 60
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.is_meta and parameter.grad is None for parameter in model.parameters())


def test_what_a_model_cannot_take_is_told() -> None:
    with pytest.raises(ValueError, match="max_length"):
        training_cost(build("linformer"), batch_size=1, length=514)
    with pytest.raises(ValueError, match="bidirectional"):
        decode_cost(build("masked performer"), context=8)
    with pytest.raises(ValueError, match="LanguageModel"):
        training_cost(nn.Linear(2, 2), batch_size=1, length=2)
