"""Adapters of PEFT on our models: they act in every path, train, are saved and loaded, and merge into what they did unmerged."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("peft")
import peft
from tests.hf.models import BIDIRECTIONAL, CAUSAL, VOCAB, causal, louder, tokens

from subquadratic.hf import (
    LORA_TARGETS,
    SubquadraticConfig,
    SubquadraticForCausalLM,
    SubquadraticForSeq2SeqLM,
    SubquadraticForSequenceClassification,
    lora_targets,
)

KINDS: dict[str, Any] = {
    "default": lambda: peft.LoraConfig(r=2, task_type="CAUSAL_LM"),
    "everywhere": lambda: peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    "dora": lambda: peft.LoraConfig(r=2, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "p_tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"),
}
MERGEABLE = ["default", "everywhere", "dora", "ia3"]


@torch.no_grad()
def adapted(base: Any, config: Any) -> Any:
    """A model with an adapter that changes what it says, in eval mode."""
    model = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def written(model: Any, prompt: Tensor, **options: Any) -> Tensor:
    """Logits (B, T, V) of what it writes after a prompt."""
    found = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True, **options,
    )  # fmt: skip
    return torch.stack(found.logits, dim=1)


def near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CAUSAL)
def test_an_adapter_acts_with_a_cache_as_without_and_merges(name: str, kind: str) -> None:
    base, prompt = causal(name), tokens(2, 5)
    plain = written(base, prompt)  # the step of one token is recorded without the adapter
    model = adapted(base, KINDS[kind]())
    with_cache = written(model, prompt)
    near(with_cache, written(model, prompt, use_cache=False))
    assert (with_cache[:, 0] - plain[:, 0]).abs().max() > 1e-2
    model.train()(input_ids=prompt, labels=prompt).loss.backward()
    for parameter in model.parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and bool(parameter.grad.abs().max() > 0))
    model.eval()
    if kind not in MERGEABLE:
        return
    with model.disable_adapter():
        near(written(model, prompt), plain)
    longer = tokens(2, 12)
    unmerged = model(input_ids=longer).logits
    merged = model.merge_and_unload()
    near(merged(input_ids=longer).logits, unmerged)
    near(written(merged, prompt), with_cache)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    causal("performer").save_pretrained(tmp_path / "base")
    model = adapted(SubquadraticForCausalLM.from_pretrained(tmp_path / "base"), KINDS[kind]())
    model.save_pretrained(tmp_path / "adapter")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(written(again, tokens(2, 5)), written(model, tokens(2, 5)))


def test_the_adapters_of_transformers_itself(tmp_path: Path) -> None:
    model, prompt = causal("gated_linear"), tokens(2, 5)
    plain = written(model, prompt)
    model.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False))
    acting = written(model, prompt)
    near(acting, written(model, prompt, use_cache=False))
    assert (acting[:, 0] - plain[:, 0]).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    fresh = causal("gated_linear")
    fresh.load_adapter(str(tmp_path))
    assert torch.equal(written(fresh.eval(), prompt), acting)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_default_targets_are_maps_of_each_backbone(name: str) -> None:
    model = causal(name)
    targets = lora_targets(model)
    assert set(targets) <= set(LORA_TARGETS) and len(targets) == 2
    wrapped = peft.get_peft_model(model, KINDS["default"]())
    layers = [module for module in wrapped.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    own = [module for path, module in causal(name).named_modules() if path.rpartition(".")[2] in targets]
    assert len(layers) == len(own) > 0


def test_targets_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a model of subquadratic, got Linear"):
        lora_targets(nn.Linear(2, 2))


@pytest.mark.parametrize("name", CAUSAL)
def test_prefix_tuning_is_refused(name: str) -> None:
    model = peft.get_peft_model(causal(name), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    for call in (lambda: model(input_ids=tokens(1, 4)), lambda: written(model, tokens(1, 4))):
        with pytest.raises(ValueError, match="prefix tuning puts keys and values"):
            call()


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_classifiers_train_their_head_beside_an_adapter(name: str, tmp_path: Path) -> None:
    def fresh() -> Any:
        torch.manual_seed(0)
        config = SubquadraticConfig(backbone=BIDIRECTIONAL[name], vocab_size=VOCAB, num_labels=3)
        return louder(SubquadraticForSequenceClassification(config))

    model = adapted(fresh(), peft.LoraConfig(r=2, task_type="SEQ_CLS"))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    found = model(input_ids=tokens(2, 6), attention_mask=mask, labels=torch.tensor([0, 2]))
    found.loss.backward()
    trained = {path for path, parameter in model.named_parameters() if parameter.grad is not None and bool(parameter.grad.abs().max() > 0)}
    assert any("classifier" in path for path in trained) and any("lora_A" in path for path in trained)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(fresh(), tmp_path).eval()
    near(again(input_ids=tokens(2, 6), attention_mask=mask).logits, found.logits)


@pytest.mark.parametrize("target", ["table", "lm_head"])
def test_an_adapter_on_a_tied_embedding_is_told_and_acts_in_every_path(target: str) -> None:
    base, prompt = causal("gated_linear", tie=True), tokens(2, 5)
    written(base, prompt)
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        model = adapted(base, peft.LoraConfig(r=2, target_modules=[target], task_type="CAUSAL_LM"))
    near(written(model, prompt), written(model, prompt, use_cache=False))


@pytest.mark.parametrize("target", ["table", "lm_head"])
def test_a_tied_adapter_acts_on_both(target: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config = peft.LoraConfig(r=2, target_modules=[target], ensure_weight_tying=True, task_type="CAUSAL_LM")
        model = adapted(causal("performer", tie=True), config)
    near(written(model, tokens(2, 5)), written(model, tokens(2, 5), use_cache=False))
    base = model.get_base_model()
    everything = torch.arange(VOCAB)
    torch.testing.assert_close(base.lm_head(torch.eye(16)).T, base.model.embedding.table(everything), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("given", [{"reversible": True}, {"checkpointing": True}], ids=["reversible", "checkpointing"])
def test_gradients_of_adapters_where_activations_are_recomputed(given: dict[str, Any]) -> None:
    config = SubquadraticConfig(backbone=CAUSAL["performer"].replace(**given), vocab_size=VOCAB)
    model = adapted(louder(SubquadraticForCausalLM(config)).double(), KINDS["everywhere"]()).double().train()
    batch, trained = tokens(2, 7), [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss() -> Tensor:  # the models' own is of float32
        return nn.functional.cross_entropy(model(input_ids=batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    gradients = torch.autograd.grad(loss(), trained)
    directions = [torch.randn_like(parameter) for parameter in trained]
    expected = sum(float((gradient * direction).sum()) for gradient, direction in zip(gradients, directions, strict=True))
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(trained, directions, strict=True):
                parameter += sign * 1e-5 * direction
            found.append(float(loss()))
            for parameter, direction in zip(trained, directions, strict=True):
                parameter -= sign * 1e-5 * direction
    assert (found[0] - found[1]) / 2e-5 == pytest.approx(expected, rel=1e-3)


def test_adapters_of_sequence_to_sequence(tmp_path: Path) -> None:
    def fresh() -> Any:
        torch.manual_seed(0)
        decoder = CAUSAL["transformer"].replace(cross_attention=True)
        config = SubquadraticConfig(
            backbone=decoder, encoder_backbone=BIDIRECTIONAL["performer"], vocab_size=VOCAB, decoder_start_token_id=1
        )
        return louder(SubquadraticForSeq2SeqLM(config)).eval()

    plain, prompt = written(fresh(), tokens(2, 5)), tokens(2, 5)
    model = adapted(fresh(), peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_2_SEQ_LM"))
    with_cache = written(model, prompt)
    near(with_cache, written(model, prompt, use_cache=False))
    assert (with_cache[:, 0] - plain[:, 0]).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert torch.equal(written(peft.PeftModel.from_pretrained(fresh(), tmp_path).eval(), prompt), with_cache)
    near(written(model.merge_and_unload(), prompt), with_cache)
