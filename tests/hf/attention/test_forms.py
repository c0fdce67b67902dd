"""What else people do with a model: save it, compile it, train it, cast it, pack documents, look at its attention."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from tests.hf.attention.models import LEFT, RIGHT, TOKENS, bert, build, families, llama, mistral, modern_bert

from subquadratic.hf.attention import NAMES, configure
from subquadratic.hf.attention.options import FAVOR, LINFORMER, WINDOW, options_of

CASES = [(name, kind) for name in NAMES for kind in (bert, modern_bert, llama, mistral) if (name, kind) != (LINFORMER, llama)]
SMALL = {"features": 32, "window": 6, "slots": 7}


def small(implementation: str, kind: Any, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    model = build(*kind(), implementation, **{**SMALL, **options})
    return model, {"input_ids": TOKENS, "attention_mask": LEFT if hasattr(model, "lm_head") else RIGHT}


def of_one_layer(kind: Any) -> Any:
    """The second would be compiled as the first, and take as long; ModernBERT's two differ."""

    def one_layer() -> tuple[type, Any]:
        model_class, config = kind()
        config.num_hidden_layers = 2 if kind is modern_bert else 1
        return model_class, config

    return one_layer


def real(output: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    return output[inputs["attention_mask"].bool()]


@pytest.mark.parametrize(("implementation", "kind"), CASES)
def test_options_are_saved_and_outputs_come_back(implementation: str, kind: Any, tmp_path: Path) -> None:
    model, inputs = small(implementation, kind, seed=5)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, attn_implementation=implementation)
    assert options_of(again) == options_of(model)
    with torch.no_grad():
        assert torch.equal(again(**inputs)[0], model(**inputs)[0])
    assert not [key for key in model.state_dict() if "projection" in key]  # nothing of ours in the checkpoint


GRAPHS = [(*case, True) for case in CASES if case[1] in (bert, llama)] + [(FAVOR, llama, False)]


@pytest.mark.parametrize(
    ("implementation", "kind", "masked"), [pytest.param(*case, marks=[] if case[0] == FAVOR else pytest.mark.slow) for case in GRAPHS]
)
def test_compiles_as_one_graph(implementation: str, kind: Any, masked: bool) -> None:
    check_compiled(*small(implementation, of_one_layer(kind)), masked)


@pytest.mark.slow  # all of them
@pytest.mark.parametrize(("implementation", "kind"), CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_two_layers_compile_as_one_graph(implementation: str, kind: Any, masked: bool) -> None:
    check_compiled(*small(implementation, kind), masked)


def check_compiled(model: Any, inputs: dict[str, Tensor], masked: bool) -> None:
    given = dict(inputs) if masked else {"input_ids": TOKENS}
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(**given)[0]
        assert (real(compiled, inputs) - real(model(**given)[0], inputs)).abs().max() < 2e-4


@pytest.mark.parametrize("implementation", [pytest.param(name, marks=[] if name == FAVOR else pytest.mark.slow) for name in NAMES])
def test_configured_models_compile_for_any_shape(implementation: str) -> None:
    model, inputs = small(implementation, of_one_layer(bert))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        for length in (20, 17):
            given = {key: tensor[:, :length] for key, tensor in inputs.items()}
            assert (real(compiled(**given)[0], given) - real(model(**given)[0], given)).abs().max() < 2e-4


@pytest.mark.parametrize("implementation", [pytest.param(name, marks=[] if name == FAVOR else pytest.mark.slow) for name in NAMES])
def test_compiled_training_has_the_same_gradients(implementation: str) -> None:
    model, inputs = small(implementation, of_one_layer(bert))
    torch._dynamo.reset()
    real(model(**inputs)[0], inputs).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    real(compiled(**inputs)[0], inputs).square().mean().backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("implementation", "kind"), [(FAVOR, llama), (WINDOW, llama), (WINDOW, mistral)])
@pytest.mark.parametrize("compiled", [False, True])
def test_packed_documents_are_as_if_alone(implementation: str, kind: Any, compiled: bool) -> None:
    model, _ = small(implementation, kind)
    row, lengths = TOKENS[:1], (8, 1, 11)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    torch._dynamo.reset()
    run = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
    with torch.no_grad():
        packed = run(row, position_ids=positions, use_cache=False).logits
        alone = torch.cat([model(part, use_cache=False).logits for part in row.split(lengths, dim=1)], dim=1)
    assert (packed - alone).abs().max() < 2e-4


@pytest.mark.parametrize("way", ["a default cache", "a mask of ones", "bounds"])
def test_packed_documents_are_found_where_transformers_forgets_them(way: str) -> None:
    """It looks for restarting positions only without mask and cache."""
    more: dict[str, Any] = {
        "a default cache": {"use_cache": True},
        "a mask of ones": {"attention_mask": torch.ones(1, 20, dtype=torch.int64), "use_cache": False},
        "bounds": {"cu_seq_lens_q": torch.tensor([0, 8, 20], dtype=torch.int32), "use_cache": False},
    }[way]
    model, _ = small(FAVOR, llama)
    positions = torch.cat((torch.arange(8), torch.arange(12)))[None]
    with torch.no_grad():
        packed = model(TOKENS[:1], position_ids=positions, **more).logits
        alone = torch.cat([model(part, use_cache=False).logits for part in TOKENS[:1].split((8, 12), dim=1)], dim=1)
    assert (packed - alone).abs().max() < 2e-4


@pytest.mark.parametrize("implementation", NAMES)
def test_packed_documents_of_an_encoder(implementation: str) -> None:
    model, _ = small(implementation, bert)
    with torch.no_grad():
        positions = torch.cat((torch.arange(8), torch.arange(12)))[None]
        bounds = torch.tensor([0, 8, 20], dtype=torch.int32)
        packed = model(TOKENS[:1], position_ids=positions, cu_seq_lens_q=bounds).last_hidden_state
        alone = torch.cat([model(part).last_hidden_state for part in TOKENS[:1].split((8, 12), dim=1)], dim=1)
    assert (packed - alone).abs().max() < 2e-4


@pytest.mark.parametrize(("implementation", "kind"), [(FAVOR, bert), (FAVOR, llama), (WINDOW, llama), (LINFORMER, bert)])
def test_checkpointing_gives_the_same_gradients(implementation: str, kind: Any) -> None:
    model, inputs = small(implementation, kind)
    model.train()
    gradients = []
    for reentrant in (None, False, True):
        model.zero_grad()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        torch.manual_seed(0)
        real(model(**inputs, **({"use_cache": False} if kind is llama else {}))[0], inputs).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].isfinite().all() and gradients[0].abs().max() > 0
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


@pytest.mark.parametrize(("implementation", "kind"), CASES)
def test_dtypes_devices_and_copies(implementation: str, kind: Any) -> None:
    model, inputs = small(implementation, kind)
    with torch.no_grad():
        expected = model(**inputs)[0]
        assert torch.equal(copy.deepcopy(model)(**inputs)[0], expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(**inputs)[0], expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(**inputs)[0].isfinite().all()
        for dtype in (torch.bfloat16, torch.float16):
            output = copy.deepcopy(model).to(dtype)(**inputs)[0]
            assert output.dtype is dtype and output.isfinite().all()
        meta = copy.deepcopy(model).to("meta")
        assert meta(**{name: tensor.to("meta") for name, tensor in inputs.items()})[0].shape == expected.shape


@pytest.mark.parametrize("implementation", NAMES)
def test_padding_has_no_effect(implementation: str) -> None:
    model, _ = small(implementation, bert)
    with torch.no_grad():
        padded = model(TOKENS, attention_mask=RIGHT).last_hidden_state[1, :12]
        alone = model(TOKENS[1:, :12]).last_hidden_state[0]
    assert (padded - alone).abs().max() < 2e-4


@pytest.mark.parametrize("implementation", NAMES)
def test_masks_of_four_axes(implementation: str) -> None:
    model, inputs = small(implementation, bert)
    floats = torch.zeros(2, 1, 1, 20).masked_fill(~RIGHT[:, None, None].bool(), torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = real(model(**inputs).last_hidden_state, inputs)
        for mask in (RIGHT[:, None, None].bool().expand(-1, 4, 20, -1), floats, floats.expand(-1, -1, 20, -1)):
            assert torch.equal(real(model(TOKENS, attention_mask=mask).last_hidden_state, inputs), expected)
    pattern = (torch.arange(20)[:, None] // 3 == torch.arange(20) // 3).expand(2, 1, -1, -1)
    with pytest.raises(NotImplementedError, match="neither padding nor causal"):
        model(TOKENS, attention_mask=pattern)
    with pytest.raises(NotImplementedError, match="adds a bias"):
        model(TOKENS, attention_mask=floats + torch.randn(2, 1, 20, 20))
    with pytest.raises(NotImplementedError, match="between heads"):
        model(TOKENS, attention_mask=torch.arange(4)[:, None, None].expand(2, 4, 20, 20) > 1)


def test_a_causal_mask_of_four_axes_is_causal() -> None:
    model, _ = small(FAVOR, llama)
    triangle = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    with torch.no_grad():
        assert torch.equal(model(TOKENS, attention_mask=triangle).logits, model(TOKENS).logits)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_configuration_overrules_the_attribute(is_causal: bool) -> None:
    """A decoder whose configuration says is_causal=False is an encoder: later tokens change earlier outputs."""
    model, _ = small(FAVOR, llama)
    model.config.is_causal = is_causal
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 45
    with torch.no_grad():
        changed = (model(other, use_cache=False).logits - model(TOKENS, use_cache=False).logits)[:, 0].abs().max()
    assert (changed == 0) == is_causal


@pytest.mark.parametrize("implementation", NAMES)
def test_attention_weights_are_refused(implementation: str) -> None:
    model, inputs = small(implementation, bert)
    with pytest.raises(NotImplementedError, match="output_attentions"):
        model(**inputs, output_attentions=True)
    model_class, config = bert()
    config.output_attentions = True  # as a checkpoint may say
    with pytest.raises(NotImplementedError, match="output_attentions"):
        build(model_class, config, implementation)(**inputs)


@pytest.mark.parametrize("kind", [bert, llama])
def test_masks_of_other_sizes_are_refused_by_what_was_given(kind: Any) -> None:
    model, _ = small(FAVOR, kind)
    with pytest.raises(ValueError, match=r"attention_mask must be .*got \(2, 20, 20\)"):
        model(TOKENS, attention_mask=torch.ones(2, 20, 20).tril())
    if kind is bert:  # a decoder takes keys beyond the end of a mask for padding
        with pytest.raises(NotImplementedError, match="a mask of 19 tokens for 20 queries"):
            model(TOKENS, attention_mask=RIGHT[:, :-1])


@pytest.mark.parametrize("implementation", NAMES)
def test_attention_dropout_is_of_keys_and_unbiased(implementation: str) -> None:
    model, _ = small(implementation, bert, window=64, slots=64, features=512)
    attention = model.encoder.layer[0].attention.self
    x = torch.randn(1, 20, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = attention(x, None)[0]
        attention.train()
        attention.dropout.p = attention.attention_dropout = 0.3
        torch.manual_seed(0)
        drawn = torch.stack([attention(x, None)[0] for _ in range(800)])
    assert (drawn[0] - expected).abs().max() > 1e-2
    assert ((drawn.mean(0) - expected).abs() < 6 * drawn.std(0) / 800**0.5 + 1e-6).all()


def test_options_out_of_range_and_unknown() -> None:
    model, _ = small(FAVOR, bert)
    with pytest.raises(ValueError, match="features must be"):
        configure(model, features=0)
    with pytest.raises(ValueError, match="did you mean 'features'"):
        configure(model, feature=3)
    with pytest.raises(TypeError, match="model of transformers"):
        configure(torch.nn.Linear(2, 2), features=3)
    for other in (None, model.config):
        with pytest.raises(TypeError, match="model of transformers"):
            configure(other, features=3)  # type: ignore[arg-type]
    for seed in (True, -1, 2**32, 0.5):
        with pytest.raises(ValueError, match="seed must be an integer from 0"):
            configure(model, seed=seed)
    assert options_of(model).features == 32  # as it was


@pytest.mark.parametrize("written", [3, {"feature": 3}])
def test_options_that_a_configuration_should_not_hold(written: Any) -> None:
    model_class, config = bert(subquadratic_attention=written)
    with pytest.raises(ValueError, match="subquadratic_attention of a configuration must be a dict with some of features"):
        build(model_class, config, FAVOR)(TOKENS)


def test_layers_have_projections_of_their_own() -> None:
    """Where a layer knows its number; the same seed draws the same."""
    from subquadratic.hf.attention.projections import projection

    one, other = (projection(8, 4, 0, 0, layer, torch.device("cpu")) for layer in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, projection(8, 4, 0, 0, 0, torch.device("cpu")))
    assert not torch.equal(one, projection(8, 4, 0, 1, 0, torch.device("cpu")))
    assert families()["llama"][0] is llama()[0]


def test_an_encoder_that_computes_for_itself_in_full_is_refused() -> None:
    from transformers import BigBirdPegasusConfig, BigBirdPegasusForCausalLM, BigBirdPegasusModel

    each = {"layers": 1, "attention_heads": 2, "ffn_dim": 8}
    sizes = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in each.items()}
    tokens = torch.arange(20)[None]
    for attention_type in ("original_full", "block_sparse"):
        config = BigBirdPegasusConfig(vocab_size=30, d_model=16, max_position_embeddings=64, attention_type=attention_type, **sizes)
        model = BigBirdPegasusModel._from_config(config, attn_implementation="subquadratic_favor")
        with pytest.raises(NotImplementedError, match="BigBirdPegasus with attention_type"):
            model(input_ids=tokens)
        decoder = BigBirdPegasusForCausalLM._from_config(config, attn_implementation="subquadratic_favor")
        assert decoder(input_ids=tokens).logits.shape == (1, 20, 30)
