"""The twins beside the published classes, name by name: scripts that freeze, group, probe or wrap layers find the same ones in both."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import fast_transformer_pytorch
    import feedback_transformer_pytorch
    import linformer
    import perceiver_ar_pytorch
    import performer_pytorch

from subquadratic import compat

SIZE: dict[str, Any] = {"num_tokens": 11, "dim": 24, "depth": 2, "heads": 2}
PERFORMER: dict[str, Any] = {**SIZE, "max_seq_len": 20, "dim_head": 6, "nb_features": 9}
STACK = {"dim": 24, "depth": 2, "heads": 2, "dim_head": 6}
PERFORMERS: list[dict[str, Any]] = [
    {}, {"causal": True}, {"reversible": True},
    {"local_attn_heads": 1, "local_window_size": 4}, {"local_attn_heads": (2, 0), "causal": True},
    {"ff_glu": True, "ff_chunks": 3}, {"use_scalenorm": True, "reversible": True}, {"use_rezero": True, "qkv_bias": True},
    {"shift_tokens": True}, {"shift_tokens": True, "causal": True, "reversible": True}, {"cross_attend": True, "attn_out_bias": True},
    {"cross_attend": True, "reversible": True, "shift_tokens": True, "use_rezero": True}, {"tie_embed": True, "no_projection": True},
    {"rotary_position_emb": False}, {"rotary_position_emb": False, "axial_position_emb": True, "axial_position_shape": (4, 5)},
    {"generalized_attention": True, "kernel_fn": nn.Softplus()}, {"kernel_fn": torch.exp, "emb_dropout": 0.1, "attn_dropout": 0.2},
]  # fmt: skip
LINFORMERS: list[dict[str, Any]] = [{}, {"reversible": True}, {"share_kv": True, "one_kv_head": True}, {"dim_head": 5, "dropout": 0.1}]
ENCODER_DECODER = {f"{side}_{name}": value for side in ("enc", "dec") for name, value in PERFORMER.items() if name != "dim"}


def cases() -> list[Any]:
    """Published class, twin, positional arguments, keywords."""
    ours = compat.performer_pytorch
    both: list[tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = []
    for options in PERFORMERS:
        both.append((performer_pytorch.PerformerLM, ours.PerformerLM, (), {**PERFORMER, **options}))
        only = ("tie_embed", "rotary_position_emb", "axial_position_emb", "axial_position_shape", "emb_dropout")
        stack = {name: value for name, value in options.items() if name not in only}
        both.append((performer_pytorch.Performer, ours.Performer, (), {**STACK, **stack}))
    for tie in (False, True):
        options = {**ENCODER_DECODER, "tie_token_embeds": tie, "enc_reversible": True}
        both.append((performer_pytorch.PerformerEncDec, ours.PerformerEncDec, (24,), options))
    for options in ({}, {"causal": True, "local_heads": 1}, {"dim_head": None, "qkv_bias": True, "attn_out_bias": False, "dropout": 0.1}):
        both.append((performer_pytorch.SelfAttention, ours.SelfAttention, (24,), {"heads": 2, **options}))
    both.append((performer_pytorch.CrossAttention, ours.CrossAttention, (24,), {"heads": 2}))
    both += [(performer_pytorch.FastAttention, ours.FastAttention, (8,), options) for options in ({}, {"kernel_fn": torch.cos})]
    for options in LINFORMERS:
        both.append((linformer.LinformerLM, compat.linformer.LinformerLM, (), {**SIZE, "seq_len": 20, "k": 5, **options}))
        both.append((linformer.Linformer, compat.linformer.Linformer, (24, 20, 2), {"k": 5, "heads": 2, **options}))
        alone = {name: value for name, value in options.items() if name != "reversible"}
        both.append((linformer.LinformerSelfAttention, compat.linformer.LinformerSelfAttention, (24, 20), {"k": 5, "heads": 2, **alone}))
    fast = compat.fast_transformer_pytorch
    for absolute in (False, True):
        options = {**SIZE, "depth": 3, "max_seq_len": 20, "dim_head": 8, "absolute_pos_emb": absolute}
        both.append((fast_transformer_pytorch.FastTransformer, fast.FastTransformer, (), options))
    both.append((fast_transformer_pytorch.fast_transformer_pytorch.FastAttention, fast.FastAttention, (24,), {"heads": 2, "dim_head": 8}))
    feedback = feedback_transformer_pytorch.FeedbackTransformer, compat.feedback_transformer_pytorch.FeedbackTransformer
    for options in ({}, {"seq_len": 1}, {"seq_len": 5, "keep_last_hidden": True}, {"seq_len": 1, "attn_dropout": 0.1, "ff_dropout": 0.1}):
        both.append((*feedback, (), {**SIZE, "mem_len": 6, "dim_head": 4, **options}))
    perceiver = perceiver_ar_pytorch.PerceiverAR, compat.perceiver_ar_pytorch.PerceiverAR
    for options in ({}, {"perceive_depth": 2, "ff_mult": 2, "dropout": 0.1, "cross_attn_dropout": 0.1}):
        both.append((*perceiver, (), {**SIZE, "max_seq_len": 20, "cross_attn_seq_len": 8, "dim_head": 32, **options}))
    return both


def spell(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={getattr(v, '__name__', v)}" for name, v in value.items() if name not in {**PERFORMER, **ENCODER_DECODER})
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("published", "twin", "arguments", "options"), cases(), ids=spell)
def test_names_are_the_published_ones(published: Any, twin: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    theirs, ours = published(*arguments, **options), twin(*arguments, **options)
    for duplicates in (True, False):  # without and with the other names of what is shared
        wanted = [(name, tuple(p.shape), p.requires_grad) for name, p in theirs.named_parameters(remove_duplicate=duplicates)]
        found = [(name, tuple(p.shape), p.requires_grad) for name, p in ours.named_parameters(remove_duplicate=duplicates)]
        inner = [each for each in wanted if "proj_updater.instance." not in each[0]]  # the twin does not register its layers twice
        assert found == inner
    for name, module in theirs.named_modules(remove_duplicate=False):
        one = ours.get_submodule(name)
        assert type(one).__name__ == type(module).__name__, name
        mended = "Perceiver" in twin.__name__ and name.startswith("layers.") and name.endswith("0.dropout")  # 0 there, always
        if not list(module.children()) and not mended:
            assert repr(one) == repr(module), name
    paths = [{name for name, _ in model.named_modules(remove_duplicate=False)} for model in (theirs, ours)]
    assert paths[1] <= paths[0]


@pytest.mark.parametrize(("published", "twin", "arguments", "options"), cases(), ids=spell)
def test_a_twin_saves_published_names_and_loads_them(
    published: Any, twin: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    theirs, ours = published(*arguments, **options), twin(*arguments, **options)
    saved = ours.state_dict()
    plain = {**options, **{name: False for name in options if name.endswith("reversible")}}
    assert saved.keys() <= published(*arguments, **plain).state_dict().keys()  # `reversible` is how a model runs, not what it is
    assert len({tensor.data_ptr() for tensor in saved.values()}) == len(saved)
    again = twin(*arguments, **options)
    again.load_state_dict(saved)
    for (name, wanted), found in zip(ours.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(wanted, found), name
    parameters = dict(ours.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():  # value by value, as scripts copy them
            parameter.copy_(parameters[name])
    again.load_state_dict(theirs.state_dict())
    for (name, wanted), found in zip(ours.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(wanted, found), name
    copied = copy.deepcopy(ours)
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in ours.named_parameters()]


class Scaled(nn.Module):
    """An adapter: what it wraps, times a factor."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, *inputs: Any, **arguments: Any) -> torch.Tensor:
        return 1.5 * self.fn(*inputs, **arguments)


def replace(model: nn.Module, path: str) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, Scaled(model.get_submodule(path)))


ADAPTED = [
    (performer_pytorch.PerformerLM, compat.performer_pytorch.PerformerLM, {**PERFORMER, "max_seq_len": 400, "rotary_position_emb": False}),
    (linformer.LinformerLM, compat.linformer.LinformerLM, {**SIZE, "seq_len": 400, "k": 5}),
    (feedback_transformer_pytorch.FeedbackTransformer, compat.feedback_transformer_pytorch.FeedbackTransformer,
     {**SIZE, "mem_len": 6, "dim_head": 4, "seq_len": 130}),
]  # fmt: skip


@pytest.mark.parametrize(("published", "twin", "options"), ADAPTED, ids=spell)
def test_an_adapter_or_a_hook_on_any_module_acts_as_in_the_published_one(published: Any, twin: Any, options: dict[str, Any]) -> None:
    """On 260 rows, where the C kernels would read the weights of several modules at once."""
    reference, model = published(**options).eval(), twin(**options).eval()
    model.load_state_dict(reference.state_dict())
    tokens = torch.randint(0, 11, (2, 130))
    plain = reference(tokens)
    kinds = {"Linear", "LayerNorm", "GELU", "GEGLU", "FeedForward", "Chunk", "PreLayerNorm", "PreNorm", "Residual", "SelfAttention"}
    kinds |= {"LinformerSelfAttention", "Attention"}
    for path in [name for name, module in reference.named_modules() if type(module).__name__ in kinds]:
        hooked = []
        for each in (reference, model):
            handle = each.get_submodule(path).register_forward_hook(lambda module, inputs, output: output * 1.5)
            hooked.append(each(tokens))
            handle.remove()
        assert (hooked[0] - hooked[1]).norm() < 1e-4 * hooked[0].norm(), path
        assert (hooked[0] - plain).norm() > 0, path
        adapted = []
        for each in (copy.deepcopy(reference), copy.deepcopy(model)):
            replace(each, path)
            adapted.append(each(tokens))
        assert (adapted[0] - adapted[1]).norm() < 1e-4 * adapted[0].norm(), path


@pytest.mark.parametrize(
    "options", [{}, {"shift_tokens": True, "reversible": True}, {"local_attn_heads": 1, "local_window_size": 4}], ids=spell
)
def test_adapters_and_hooks_act_in_a_stream(options: dict[str, Any]) -> None:
    model = compat.performer_pytorch.PerformerLM(**PERFORMER, causal=True, **options).eval()
    tokens = torch.randint(0, 11, (2, 12))
    layers = model.performer.net.layers
    layers[0][0].register_forward_hook(lambda module, inputs, output: output * 2)
    layers[1][1].fn.register_forward_hook(lambda module, inputs, output: output + 1)
    layers[1][0].fn = Scaled(layers[1][0].fn)
    layers[0][1].fn = Scaled(layers[0][1].fn)
    expected = model(tokens)
    state, outputs = model.init_state(2), []
    for piece in tokens.split([1, 5, 1, 1, 4], dim=1):
        logits, state = model.extend(piece, state)
        outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_keeps_the_stream_to_itself_is_refused() -> None:
    class Deaf(Scaled):
        def forward(self, x: torch.Tensor, **arguments: Any) -> torch.Tensor:
            return self.fn(x)

    model = compat.performer_pytorch.PerformerLM(**PERFORMER, causal=True).eval()
    attention = model.performer.net.layers[1][0]
    attention.fn = Deaf(attention.fn)
    with pytest.raises(RuntimeError, match="must hand the keyword argument `carry` to it"):
        model.extend(torch.zeros(1, 1, dtype=torch.int64), model.init_state(1))
    attention.fn = nn.Identity()
    with pytest.raises(ValueError, match="layer 1 of the Performer has no attention layer that can stream"):
        model.init_state(1)
