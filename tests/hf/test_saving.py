"""One file format: what our own heads save opens in transformers and back, also in a process that never imported us."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
from safetensors.torch import load_file
from tests.hf.models import BIDIRECTIONAL, CAUSAL, SMALL, VOCAB, causal, limit, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import subquadratic as sq
from subquadratic.attention.favor import fitting
from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM
from subquadratic.hf.convert import convert

CLOSE: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-5}


def ours(name: str, *, tie: bool = False, configs: dict[str, sq.BackboneConfig] = CAUSAL) -> sq.LanguageModel:
    torch.manual_seed(0)
    config = configs[name]
    return sq.LanguageModel(config, vocab_size=VOCAB, max_length=limit(config), tie_embeddings=tie).eval()


def same_tensors(one: Path, two: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_there_and_back(name: str, tie: bool, tmp_path: Path) -> None:
    model, text = ours(name, tie=tie), tokens(2, 6)
    model.save_pretrained(tmp_path / "ours")
    theirs, told = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    torch.testing.assert_close(theirs(text, use_cache=False).logits, model(text), **CLOSE)
    theirs.save_pretrained(tmp_path / "theirs")
    same_tensors(tmp_path / "ours", tmp_path / "theirs")
    again = sq.load(tmp_path / "theirs")
    torch.testing.assert_close(again(text), model(text))
    again.save_pretrained(tmp_path / "theirs")
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(last(text, use_cache=False).logits, model(text), **CLOSE)
    assert last.config.backbone == model.config.to_dict()
    assert last.config.tie_word_embeddings is tie
    if tie:
        assert last.lm_head.weight is last.get_input_embeddings().weight


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_bidirectional_models_there_and_back(name: str, tmp_path: Path) -> None:
    model, text = ours(name, configs=BIDIRECTIONAL), tokens(2, 6)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(text).logits, model(text), **CLOSE)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(sq.load(tmp_path)(text), model(text), **CLOSE)
    with pytest.raises(ValueError, match="needs a causal backbone"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_classifiers_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, text = sq.SequenceClassifier(CAUSAL["fastformer"], vocab_size=VOCAB, labels=["bad", "good", "odd"]).eval(), tokens(2, 6)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.id2label == {0: "bad", 1: "good", 2: "odd"}
    torch.testing.assert_close(theirs(text).logits, model(text), **CLOSE)
    theirs.save_pretrained(tmp_path)
    again = sq.load(tmp_path)
    assert isinstance(again, sq.SequenceClassifier) and again.labels == ("bad", "good", "odd")
    torch.testing.assert_close(again(text), model(text), **CLOSE)


@pytest.mark.parametrize("tie", [False, True])
def test_encoder_decoders_there_and_back(tie: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sq.EncoderDecoder(
        sq.LinformerConfig(**SMALL, causal=False, max_length=50, slots=4),
        sq.PerformerConfig(**SMALL, features=12, cross_attention=True),
        vocab_size=VOCAB,
        target_vocab_size=VOCAB + 2,
        target_max_length=40,
        tie_embeddings=tie,
    ).eval()
    source, target, mask = tokens(2, 7), tokens(2, 4, seed=1), torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    expected = model(source, target, source_mask=mask)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    given = {"attention_mask": mask.long(), "decoder_input_ids": target}
    torch.testing.assert_close(theirs(source, use_cache=False, **given).logits, expected, **CLOSE)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(sq.load(tmp_path)(source, target, source_mask=mask), expected, **CLOSE)

    options = {"attention_mask": mask.long(), "max_new_tokens": 8, "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": None}
    for mode in ({}, {"num_beams": 3}):
        cached = theirs.generate(source, **options, **mode)
        assert torch.equal(cached, theirs.generate(source, use_cache=False, **options, **mode))
    ours_says = model.generate(source, torch.ones(2, 1, dtype=torch.long), source_mask=mask, max_new_tokens=8, temperature=0)
    assert torch.equal(theirs.generate(source, **options), ours_says)
    encoded = theirs.get_encoder()(source, attention_mask=mask.long())
    assert torch.equal(theirs.generate(encoder_outputs=encoded, **options), ours_says)

    theirs.config.decoder_start_token_id = 1
    labels = target.masked_fill(torch.tensor([[False] * 4, [False, False, True, True]]), -100)
    found = theirs(source, attention_mask=mask.long(), labels=labels)
    inputs = torch.cat((torch.ones(2, 1, dtype=torch.long), target[:, :-1]), dim=1)
    logits = model(source, inputs, source_mask=mask)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_other_heads_begin_from_a_language_model(tmp_path: Path) -> None:
    model, text = ours("performer"), tokens(2, 6)
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(base(text, use_cache=False).last_hidden_state, model.hidden(text), **CLOSE)
    for auto in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        torch.manual_seed(3)
        head = auto.from_pretrained(tmp_path, num_labels=4)
        torch.testing.assert_close(head.model(text, use_cache=False).last_hidden_state, model.hidden(text), **CLOSE)
        assert 0 < float(head.classifier.weight.std()) < 0.1 and not bool(head.classifier.bias.any())
        head.save_pretrained(tmp_path / auto.__name__)
        again = auto.from_pretrained(tmp_path / auto.__name__)
        torch.testing.assert_close(again(text).logits, head(text).logits)
    base.save_pretrained(tmp_path / "base")
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "base")(text).last_hidden_state, base(text).last_hidden_state)
    with pytest.raises(ValueError, match="is not the configuration of"):
        sq.load(tmp_path / "base")


def test_a_process_that_never_imported_us(tmp_path: Path) -> None:
    model, text = ours("gated_linear"), tokens(1, 5)
    model.save_pretrained(tmp_path / "0")
    code = f"""
import torch
from transformers import AutoConfig, AutoModelForCausalLM
trusted = {{"trust_remote_code": True}}
for number in range(3):
    AutoConfig.from_pretrained(f"{tmp_path}/{{number}}", **trusted)
    model = AutoModelForCausalLM.from_pretrained(f"{tmp_path}/{{number}}", **trusted)
    model.save_pretrained(f"{tmp_path}/{{number + 1}}")
text = torch.tensor({text.tolist()})
print(model(text, use_cache=False).logits.flatten().tolist())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    logits = torch.tensor(json.loads(found.stdout.splitlines()[-1]))
    torch.testing.assert_close(logits, model(text).flatten(), **CLOSE)
    with pytest.MonkeyPatch.context() as patch:  # here we are imported, and no one is asked whether code is trusted
        patch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
        AutoConfig.from_pretrained(tmp_path / "3")
        AutoModelForCausalLM.from_pretrained(tmp_path / "3").save_pretrained(tmp_path / "4")
    same_tensors(tmp_path / "0", tmp_path / "4")
    files = sorted(file.name for file in (tmp_path / "3").iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors", "modeling_subquadratic.py"]
    assert len((tmp_path / "3" / "modeling_subquadratic.py").read_text().splitlines()) == 1
    torch.testing.assert_close(sq.load(tmp_path / "3")(text), model(text), **CLOSE)


def test_several_files_and_what_lay_there_before(tmp_path: Path) -> None:
    one, two, text = causal("performer", seed=1), causal("performer", seed=2), tokens(1, 5)
    expected = one(text).logits, two(text).logits
    one.save_pretrained(tmp_path)
    two.save_pretrained(tmp_path, max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits, expected[1], **CLOSE)
    torch.testing.assert_close(sq.load(tmp_path)(text), expected[1], **CLOSE)
    one.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model*.json")) and len(list(tmp_path.glob("*.safetensors"))) == 1
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits, expected[0], **CLOSE)
    two.save_pretrained(tmp_path, max_shard_size="5KB")
    ours("performer").save_pretrained(tmp_path)
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits, ours("performer")(text), **CLOSE)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


FITTED: dict[str, sq.BackboneConfig] = {
    f"{estimator} {balance}": sq.PerformerConfig(**SMALL, features=12, estimator=estimator, center=True, balance=balance)
    for estimator, balance in (("dense", "full"), ("optimal", "channel"), ("optimal", "full"), ("positive", None))
}


@pytest.mark.parametrize("name", ["performer", "gated_linear", "linformer", "feedback_transformer", *FITTED])
def test_half_precision_keeps_random_projections(name: str, tmp_path: Path) -> None:
    model, text = ours(name, configs=CAUSAL | FITTED), tokens(1, 6)
    if name in FITTED:
        with torch.no_grad(), fitting(model):
            model(tokens(4, 20))
    model.save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.lm_head.weight.dtype is torch.bfloat16
    for key, buffer in half.named_buffers():
        assert buffer.dtype is torch.float32, key
        assert torch.equal(buffer, model.get_buffer(key.removeprefix("model."))), key
    logits = half(text, use_cache=False).logits
    torch.testing.assert_close(logits.float(), model(text), atol=0.05, rtol=0.05)
    half.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert again.lm_head.weight.dtype is torch.bfloat16
    torch.testing.assert_close(again(text, use_cache=False).logits, logits)
    assert half.generate(text, max_new_tokens=12, do_sample=False).shape == (1, 18)


def test_resized_tables(tmp_path: Path) -> None:
    for tie in (False, True):
        model = causal("performer", tie=tie)
        before = model(tokens(1, 5)).logits
        model.resize_token_embeddings(VOCAB + 6)
        logits = model(torch.tensor([[VOCAB + 5, 1, 2]])).logits
        assert logits.shape[-1] == VOCAB + 6 and model.config.vocab_size == VOCAB + 6
        torch.testing.assert_close(model(tokens(1, 5)).logits[..., :VOCAB], before)
        assert model(tokens(1, 5), labels=tokens(1, 5)).loss.isfinite()
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(sq.load(tmp_path)(torch.tensor([[VOCAB + 5, 1, 2]])), logits, **CLOSE)


@pytest.mark.parametrize("told", [False, True])
def test_an_output_map_that_is_tied_no_longer_is_saved(told: bool, tmp_path: Path) -> None:
    model, text = causal("gated_linear", tie=True), tokens(2, 5)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 0.3)  # as PEFT leaves it, with modules_to_save=["lm_head"]
    if told:
        model.config.tie_word_embeddings = False
    logits = model(text).logits
    model.save_pretrained(tmp_path)
    assert not model.config.tie_word_embeddings
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits, logits, **CLOSE)
    torch.testing.assert_close(sq.load(tmp_path)(text), logits, **CLOSE)


def test_configurations() -> None:
    config = SubquadraticConfig(backbone=CAUSAL["perceiver_ar"])
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (16, 2, 2, 64)
    assert (config.causal, config.latents, config.head_dim) == (True, 6, 8)
    values = config.to_dict()
    assert values["hidden_size"] == 16 and SubquadraticConfig(**values).backbone == config.backbone
    assert AutoConfig.for_model("subquadratic").num_hidden_layers == 4
    for wrong, message in (
        ({"backbone": {"model_type": "perfomer", "dim": 16, "depth": 1}}, "did you mean 'performer'"),
        ({"backbone": {"model_type": "performer", "dim": 16, "depht": 1}}, "no field 'depht'; did you mean 'depth'"),
        ({"backbone": {"model_type": "performer", "dim": 17, "depth": 1}}, "dim must be divisible by heads"),
        ({"backbone": 3}, "backbone must be a configuration of subquadratic.models"),
        ({"hidden_size": 3}, "hidden_size=3 contradicts the backbone, which says 256"),
    ):
        with pytest.raises(ValueError, match=message):
            SubquadraticConfig(**wrong)

    class Mine(SubquadraticConfig):
        model_type = "mine"
        more: int = 3

    assert Mine(backbone=CAUSAL["fastformer"], more=4).hidden_size == 16


def test_nothing_is_drawn_anew(tmp_path: Path) -> None:
    """A fresh model starts as our own does: near a uniform guess; what is built on the meta device is filled likewise."""
    for name in CAUSAL:
        torch.manual_seed(0)
        model = SubquadraticForCausalLM(
            SubquadraticConfig(backbone=CAUSAL[name], vocab_size=VOCAB, max_position_embeddings=limit(CAUSAL[name]))
        )
        loss: Tensor = model(tokens(2, 20), labels=tokens(2, 20)).loss
        assert abs(float(loss) - torch.tensor(float(VOCAB)).log()) < 0.2
        model.save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        dropped = [key for number, key in enumerate(sorted(weights)) if number % 3 == 0]
        config = SubquadraticConfig.from_pretrained(tmp_path)
        from safetensors.torch import save_file

        save_file({key: tensor for key, tensor in weights.items() if key not in dropped}, tmp_path / "model.safetensors", {"format": "pt"})
        filled = SubquadraticForCausalLM.from_pretrained(tmp_path, config=config)
        held = filled._in_our_names(filled.state_dict())
        for key, tensor in weights.items():
            if key in dropped:
                assert held[key].isfinite().all() and float(held[key].float().std()) < 10 * float(tensor.float().std()) + 1e-6, key
            else:
                assert torch.equal(held[key], tensor), key


def test_weights_in_8_bits_are_refused(tmp_path: Path) -> None:
    sq.quantize_(sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2), vocab_size=7)).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"8 bits \(quantize='int8'\), which subquadratic\.load opens"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"convert the model that it was made of"):
        convert(tmp_path / "small", tmp_path / "out")
    assert not (tmp_path / "out").exists()
