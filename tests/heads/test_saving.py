"""Saved models: whole or not at all, and clear words for what cannot be read."""

import json
from pathlib import Path

import pytest
import torch

import subquadratic as sq
from subquadratic.heads import saving

CONFIG = sq.PerformerConfig(dim=16, depth=1, heads=2)


def saved(folder: Path) -> sq.LanguageModel:
    model = sq.LanguageModel(CONFIG, vocab_size=7, tie_embeddings=True).eval()
    model.save_pretrained(folder)
    return model


def test_heads_come_back_with_their_options(tmp_path: Path) -> None:
    classifier = sq.SequenceClassifier(CONFIG, vocab_size=7, num_classes=3, pooling="last").eval()
    classifier.save_pretrained(tmp_path / "classifier")
    again = sq.SequenceClassifier.from_pretrained(tmp_path / "classifier")
    x = torch.randint(0, 7, (2, 5))
    assert torch.equal(again(x), classifier(x)) and again.pooling == "last"

    encoder = CONFIG.replace(causal=False, dim=8)
    decoder = CONFIG.replace(cross_attention=True, context_dim=8)
    model = sq.EncoderDecoder(encoder, decoder, vocab_size=7, target_vocab_size=9).eval()
    model.save_pretrained(tmp_path / "both")
    assert torch.equal(sq.EncoderDecoder.from_pretrained(tmp_path / "both")(x, x), model(x, x))


def test_class_names_are_saved_with_the_model(tmp_path: Path) -> None:
    sq.SequenceClassifier(CONFIG, vocab_size=7, labels=["no", "yes"]).save_pretrained(tmp_path / "named")
    again = sq.SequenceClassifier.from_pretrained(tmp_path / "named")
    assert again.labels == ("no", "yes") and again.num_classes == 2
    sq.SequenceClassifier(CONFIG, vocab_size=7, num_classes=2).save_pretrained(tmp_path / "nameless")
    assert sq.SequenceClassifier.from_pretrained(tmp_path / "nameless").labels is None
    assert "labels" not in json.loads((tmp_path / "nameless" / "config.json").read_text()), "as earlier versions read it"
    wrong = ((["a"], "each of the 2 classes"), (["a", "a"], "different"), ("ab", "a list of names"), ([1, 2], "a list of names"))
    for labels, message in wrong:
        with pytest.raises(ValueError, match=f"labels must (be|name) {message}"):
            sq.SequenceClassifier(CONFIG, num_classes=2, labels=labels)
    with pytest.raises(ValueError, match="num_classes must be given, or labels"):
        sq.SequenceClassifier(CONFIG)


def test_a_failed_save_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(tensors: object, file: Path, metadata: object = None) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_callable_kernel_cannot_be_saved(tmp_path: Path) -> None:
    model = sq.LanguageModel(CONFIG.replace(kernel=torch.exp), vocab_size=7)
    with pytest.raises(ValueError, match="is a Python callable and cannot be saved"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_not_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a saved model: it has no config\.json"):
        sq.LanguageModel.from_pretrained(tmp_path)
    saved(tmp_path)
    with pytest.raises(ValueError, match="describes a LanguageModel, not a SequenceClassifier"):
        sq.SequenceClassifier.from_pretrained(tmp_path)

    weights = (tmp_path / saving.WEIGHTS).read_bytes()
    (tmp_path / saving.WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        sq.LanguageModel.from_pretrained(tmp_path)
    (tmp_path / saving.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        sq.LanguageModel.from_pretrained(tmp_path)

    config = tmp_path / saving.CONFIG
    content = json.loads(config.read_text())
    for change, message in (
        ({"format": 99}, "another format than 1"),
        ({"config": {**content["config"], "model_type": "preformer"}}, "did you mean 'performer'"),
        ({"config": {**content["config"], "headz": 3}}, "did you mean 'heads'"),
        ({"vocab": 3}, "does not describe a LanguageModel"),
    ):
        config.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            sq.LanguageModel.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        sq.LanguageModel.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    sq.LanguageModel(CONFIG.replace(depth=2), vocab_size=7).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / saving.WEIGHTS).replace(tmp_path / saving.WEIGHTS)
    with pytest.raises(ValueError, match="does not fit"):
        sq.LanguageModel.from_pretrained(tmp_path)


def heads_of(dtype: torch.dtype) -> list[torch.nn.Module]:
    both = CONFIG.replace(cross_attention=True)
    made = [
        sq.LanguageModel(CONFIG, vocab_size=7, tie_embeddings=True),
        sq.LanguageModel(CONFIG.replace(causal=False), vocab_size=7),
        sq.SequenceClassifier(CONFIG, vocab_size=7, num_classes=3),
        sq.EncoderDecoder(CONFIG.replace(causal=False), both, vocab_size=7),
        *(
            sq.LanguageModel(kind(dim=16, depth=1, heads=2, **needed), vocab_size=7)
            for kind, needed in (
                (sq.LinformerConfig, {"max_length": 20, "slots": 4}),
                (sq.FastformerConfig, {}),
                (sq.FeedbackTransformerConfig, {}),
                (sq.PerceiverARConfig, {"latents": 4}),
                (sq.TransformerConfig, {}),
            )
        ),
    ]
    return [model.to(dtype) for model in made]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_come_back_in_their_dtype_or_another_one(dtype: torch.dtype, tmp_path: Path) -> None:
    for model in heads_of(dtype):
        model.save_pretrained(tmp_path)
        for asked in (None, "auto"):
            again = type(model).from_pretrained(tmp_path, dtype=asked)
            for name, tensor in model.state_dict().items():
                found = again.state_dict()[name]
                assert found.dtype is tensor.dtype and torch.equal(found, tensor), name
        for asked in (torch.float64, "bfloat16", "torch.float32"):
            again = type(model).from_pretrained(tmp_path, dtype=asked)
            wanted = asked if isinstance(asked, torch.dtype) else getattr(torch, asked.removeprefix("torch."))
            assert {tensor.dtype for tensor in again.state_dict().values() if tensor.is_floating_point()} == {wanted}


def test_mixed_dtypes_come_back_each(tmp_path: Path) -> None:
    model = sq.LanguageModel(CONFIG, vocab_size=7)
    model.backbone.to(torch.bfloat16)
    model.norm.to(torch.float64)
    model.save_pretrained(tmp_path)
    again = sq.LanguageModel.from_pretrained(tmp_path)
    kinds = {name: tensor.dtype for name, tensor in again.state_dict().items()}
    assert kinds == {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16, torch.float64}
    assert {name: p.dtype for name, p in again.named_parameters()} == {name: p.dtype for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", ["bflot16", "int64", torch.int32, 16, "nn"])
def test_other_dtypes_are_refused(dtype: object, tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match="dtype must be a floating-point"):
        sq.LanguageModel.from_pretrained(tmp_path, dtype=dtype)  # type: ignore[arg-type]
