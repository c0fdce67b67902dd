"""NumPy's and PyTorch's scalars count as numbers wherever a number is asked for, and as flags where a flag is; a bool is no number."""

import dataclasses
import inspect
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic import attention, compat
from subquadratic.core.errors import require_above_zero, require_batch_size, require_positive, require_probability, whole_number
from subquadratic.core.scalars import as_number
from subquadratic.generation import Sampling, sample

WHOLE: list[Callable[[int], Any]] = [np.int64, np.uint8, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int32)]
REAL: list[Callable[[float], Any]] = [np.float32, np.float64, np.float16, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)]
NO_NUMBER = [True, np.bool_(True), torch.tensor(True), "3", np.array([3]), torch.tensor([3]), 1j, np.str_("3")]


@pytest.mark.parametrize("make", WHOLE)
def test_whole_numbers(make: Callable[[int], Any]) -> None:
    assert type(as_number(make(3))) is int and as_number(make(3)) == 3
    require_positive(count=make(3))
    require_batch_size(make(0))
    assert type(whole_number("count", make(3))) is int
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        require_positive(count=make(0))


@pytest.mark.parametrize("make", REAL)
def test_real_numbers(make: Callable[[float], Any]) -> None:
    assert type(as_number(make(0.5))) is float and as_number(make(0.5)) == 0.5
    require_probability(dropout=make(0.5))
    require_above_zero(mult=make(0.5))
    with pytest.raises(ValueError, match="dropout is a probability"):
        require_probability(dropout=make(1.0))
    with pytest.raises(ValueError, match="count must be an integer"):
        require_positive(count=make(2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_no_numbers(value: Any) -> None:
    for check in (require_positive, require_probability, require_above_zero):
        with pytest.raises(ValueError, match="what"):
            check(what=value)
    with pytest.raises(ValueError, match="what"):
        whole_number("what", value)
    with pytest.raises(ValueError, match="batch_size"):
        require_batch_size(value)


@pytest.mark.parametrize("make", WHOLE[:1] + WHOLE[2:4])
def test_configurations_and_heads_keep_plain_numbers(make: Callable[[Any], Any], tmp_path: Any) -> None:
    whole: dict[str, Any] = {"dim": make(16), "depth": make(1), "heads": make(2), "ff_chunks": make(1)}
    for kind, more in (
        (sq.PerformerConfig, {"features": make(8), "local_heads": (make(1),), "local_window": make(4), "feature_epsilon": np.float32(0.0)}),
        (sq.LinformerConfig, {"max_length": make(32), "slots": make(4)}),
        (sq.FastformerConfig, {"ff_mult": np.float32(2.0), "dropout": torch.tensor(0.5)}),
        (sq.FeedbackTransformerConfig, {"memory_length": make(8), "segment_length": make(2)}),
        (sq.PerceiverARConfig, {"latents": make(8), "refill": make(2)}),
        (sq.TransformerConfig, {"window": make(4), "positions": "axial", "axial_shape": (make(4), make(8))}),
    ):
        config = kind(**whole, **more)
        again = sq.BackboneConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config and hash(again) == hash(config)
        for model in (
            sq.LanguageModel(config, vocab_size=make(11), max_length=make(32)),
            sq.SequenceClassifier(config, vocab_size=make(11), num_classes=make(3), max_length=make(32)),
        ):
            json.dumps(model.options())
            model.save_pretrained(tmp_path)
            assert type(model).from_pretrained(tmp_path).options() == model.options()


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True)], ids=repr)
@pytest.mark.parametrize("field", ["dim", "depth", "heads", "ff_mult", "ff_chunks", "dropout", "head_dim", "features", "local_window"])
def test_a_bool_is_refused_by_configurations(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        sq.PerformerConfig(**{"dim": 16, "depth": 1, "heads": 2, field: value})


FLAGS = [np.bool_, np.array, torch.tensor]
NO_FLAG = ["no", np.array([False]), torch.tensor([True, False]), 2, [True]]
CONFIGS = [
    sq.PerformerConfig, sq.LinformerConfig, sq.FastformerConfig, sq.FeedbackTransformerConfig, sq.PerceiverARConfig, sq.TransformerConfig
]  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("make", FLAGS)
def test_flags_of_configurations_and_heads_are_plain(kind: Any, make: Callable[[bool], Any], tmp_path: Any) -> None:
    more = {"dim": 16, "depth": 1, "heads": 2} | ({"max_length": 32, "slots": 4} if kind is sq.LinformerConfig else {})
    more |= {"latents": 8} if kind is sq.PerceiverARConfig else {}
    fields = {field.name: field.default for field in dataclasses.fields(kind) if field.type in (bool, "bool")}
    assert {"causal", "ff_glu", "reversible"} <= fields.keys()
    config = kind(**more, **{name: make(value) for name, value in fields.items()})
    assert config == kind(**more) and all(type(getattr(config, name)) is bool for name in fields)
    model = sq.LanguageModel(config, vocab_size=11, max_length=32, tie_embeddings=make(False))
    model.save_pretrained(tmp_path)
    assert sq.LanguageModel.from_pretrained(tmp_path).options() == model.options()
    for name in fields:
        for value in NO_FLAG:
            with pytest.raises(ValueError, match=f"{name} must be True or False"):
                kind(**more, **{name: value})


def test_whoever_takes_flags_looks_at_them() -> None:
    for package in (attention, compat.performer_pytorch, compat.linformer, compat.fast_transformer_pytorch, sq.models):
        for _, made in inspect.getmembers(package, inspect.isclass):
            parameters = inspect.signature(made.__init__).parameters.values()
            flags = [parameter.name for parameter in parameters if parameter.annotation is bool]
            if not flags or dataclasses.is_dataclass(made):
                continue
            needed = {parameter.name: 8 for parameter in parameters if parameter.default is parameter.empty and parameter.name != "self"}
            for flag, value in itertools.product(flags, NO_FLAG):
                with pytest.raises(ValueError, match=f"{flag} must be True or False"):
                    made(**needed | {flag: value})


def test_one_number_a_layer_may_be_an_array() -> None:
    more = {"dim": 16, "depth": 2, "heads": 2, "local_window": 4}
    for value in (np.array([1, 0]), torch.tensor([1, 0]), [np.int64(1), 0]):
        config = sq.PerformerConfig(**more, local_heads=value)
        assert json.dumps(config.to_dict()["local_heads"]) == "[1, 0]"
        shape = sq.PerformerConfig(**more, positions="axial", axial_shape=np.array([4, 5])).axial_shape
        assert json.dumps(shape) == "[4, 5]"
    for value in (np.array([1]), np.array([[1, 0]]), np.array([1.0, 0.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="local_heads must be"):
            sq.PerformerConfig(**more, local_heads=value)
    for value in (4, "ab", np.array([4.0, 4.0]), np.array([4, 4, 4])):
        with pytest.raises(ValueError, match="axial_shape must be"):
            sq.PerformerConfig(**more, positions="axial", axial_shape=value)
    for name in ("dim", "depth", "heads", "ff_mult", "dropout"):
        with pytest.raises(ValueError, match=name):
            sq.PerformerConfig(**more | {name: np.array([1, 0])})


@pytest.mark.parametrize("make", WHOLE[:1] + WHOLE[2:4])
def test_layers_and_published_models(make: Callable[[Any], Any]) -> None:
    x = torch.randn(1, 5, 16)
    for layer in (
        attention.FavorAttention(make(16), heads=make(2), features=make(8), local_heads=make(1), local_window=make(4)),
        attention.LowRankAttention(make(16), heads=make(2), max_length=make(8), slots=make(4)),
        attention.AdditiveAttention(make(16), heads=make(2)),
        attention.SoftmaxAttention(make(16), heads=make(2), dropout=np.float32(0.5)),
        attention.WindowAttention(make(16), window=make(4), heads=make(2)),
    ):
        assert layer(x).shape == x.shape
        assert type(layer.heads) is int
    tokens = torch.randint(0, 7, (1, 5))
    model = compat.performer_pytorch.PerformerLM(num_tokens=make(7), max_seq_len=make(16), dim=make(16), depth=make(1), heads=make(2))
    assert model(tokens).shape == (1, 5, 7)


@pytest.mark.parametrize("make", WHOLE[:1] + WHOLE[2:4])
def test_generation(make: Callable[[Any], Any]) -> None:
    model = sq.LanguageModel(sq.FastformerConfig(dim=16, depth=1, heads=2), vocab_size=11, max_length=32).eval()
    out = model.generate(
        torch.tensor([[1, 2]]), max_new_tokens=make(3), samples=make(2), top_k=make(5), temperature=np.float32(0.7),
        top_p=torch.tensor(0.9), repetition_penalty=np.float32(1.2), repetition_window=make(4), piece=make(2), eos_token=make(10),
        pad_token=make(0),
    )  # fmt: skip
    assert out.shape[0] == 2
    assert type(Sampling(temperature=np.float32(0.5)).temperature) is float
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=True)
    assert sample(torch.zeros(1, 4), temperature=0).shape == (1,)
