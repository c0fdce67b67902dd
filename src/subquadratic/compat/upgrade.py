"""From a compat model to the core model that computes the same, where there is one."""

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5  # of the difference over the reference, root mean squares
STREAMS = "reversible=True returns the sum of its two streams, and the core their mean"


def upgrade(model: nn.Module) -> nn.Module:
    """The core twin of a model from :mod:`subquadratic.compat`: same outputs in evaluation, with the core's streaming, saving and training.

    ``Linformer`` gives :class:`subquadratic.Linformer`, ``LinformerSelfAttention`` a ``LowRankAttention``; ``Performer`` a
    :class:`subquadratic.Performer` and ``PerformerLM`` a :class:`subquadratic.LanguageModel` where no published epsilon, position scheme or
    output bias is in the way. Weights are copied; ``model`` is not changed.

    Raises:
        ValueError: if the core has no such model; the message says what is in the way.
    """
    package, name = type(model).__module__.removeprefix(__package__ + ".").split(".")[0], type(model).__name__
    recipe = _RECIPES.get((package, name))
    if recipe is None:
        why = _OBSTACLES.get((package, name), f"no recipe is known for {type(model).__module__}.{name}")
        raise ValueError(f"{name} has no core twin: {why}")
    twin = recipe(model)
    reference = next(model.parameters())
    twin.to(device=reference.device, dtype=reference.dtype).train(model.training)
    difference = _difference(model, twin)
    if not difference <= TOLERANCE:
        raise ValueError(f"{name} has no core twin: with these weights outputs differ by {difference:.1e} of their size")
    return twin


def _linformer(model: Any) -> nn.Module:
    from ..models.linformer import LinformerConfig

    _refuse("Linformer", (model.net.reversible, STREAMS))
    attention, feed_forward = model.net.layers[0][0].fn, model.net.layers[0][1].fn
    twin = LinformerConfig(
        dim=model.dim, depth=len(model.net.layers), heads=attention.heads, head_dim=attention.dim_head, max_length=model.seq_len,
        slots=attention.k, share="kv" if attention.share_kv else "none", one_kv_head=attention.one_kv_head, causal=False, positions=None,
        dropout=feed_forward.dropout.p, attention_dropout=attention.dropout.p,
    ).build()  # fmt: skip
    state: dict[str, Tensor] = {}
    for index, (attend, feed) in enumerate(model.net.layers):
        block = f"stack.blocks.{index}"
        state.update(_norm(f"{block}.attention.", attend.norm), **_norm(f"{block}.feed_forward.", feed.norm))
        state.update({f"{block}.attention.layer.{name}": value for name, value in _low_rank(attend.fn).items()})
        state.update(
            _linear(f"{block}.feed_forward.layer.expand.", feed.fn.w1), **_linear(f"{block}.feed_forward.layer.contract.", feed.fn.w2)
        )
    twin.load_state_dict(state, strict=True)
    return twin


def _linformer_attention(model: Any) -> nn.Module:
    from ..attention.low_rank.layer import LowRankAttention

    twin = LowRankAttention(
        model.dim, heads=model.heads, head_dim=model.dim_head, max_length=model.seq_len, slots=model.k,
        share="kv" if model.share_kv else "none", one_kv_head=model.one_kv_head, dropout=model.dropout.p,
    )  # fmt: skip
    twin.load_state_dict(_low_rank(model), strict=True)
    return twin


def _low_rank(attention: Any) -> dict[str, Tensor]:
    """The weights of a LinformerSelfAttention under the core's names. Where values are keys, the core gets the key map twice."""
    values = attention.to_k if attention.share_kv else attention.to_v
    state = {
        "query.weight": attention.to_q.weight,
        "key.weight": attention.to_k.weight,
        "value.weight": values.weight,
        "projection.key_weights": attention.proj_k,
        **_linear("output.", attention.to_out),
    }
    if not attention.share_kv:
        state["projection.value_weights"] = attention.proj_v
    return state


def _performer(model: Any, positions: str | None = None, axial_shape: tuple[int, int] | None = None) -> nn.Module:
    twin = _performer_config(model, positions, axial_shape).build()
    twin.load_state_dict(_performer_state(model), strict=True)
    return twin


def _performer_config(model: Any, positions: str | None, axial_shape: tuple[int, int] | None = None) -> Any:
    from ..models.performer import PerformerConfig
    from .feed_forward import FeedForward
    from .performer_pytorch.attention import Attention
    from .performer_pytorch.wrappers import Chunk, PreShiftTokens

    attentions = _kinds(model, Attention)
    attention, feed_forward = attentions[0], _kinds(model, FeedForward)[0]
    features = attention.fast_attention
    _refuse(
        type(model).__name__,
        (model.net.reversible, STREAMS),
        (model.cross_attend, "cross_attend=True has a second feed-forward layer after the cross-attention, and the core one in all"),
        (any(layer.local_heads for layer in attentions), "local heads have the published rotation"),
        (
            not (features.generalized_attention or features.no_projection),
            "the softmax kernel has the published stabiliser and the epsilon 1e-4 after it, and the core is exact without",
        ),
        (
            features.no_projection and features.causal,
            "causal no_projection=True weighs features by their sizes, and the core normalises each",
        ),
    )
    kernel = features.kernel_fn
    if features.no_projection:
        kernel = "efficient"
    elif kernel is torch.nn.functional.relu or isinstance(kernel, nn.ReLU):
        kernel = "relu"
    return PerformerConfig(
        dim=model.dim, depth=len(model.net.layers), heads=attention.heads, head_dim=attention.dim_head, causal=model.causal, kernel=kernel,
        features=None if features.no_projection else features.nb_features, ff_mult=feed_forward.w2.in_features / model.dim,
        ff_glu=feed_forward.glu,
        ff_chunks=_kinds(model, Chunk)[0].chunks, dropout=feed_forward.dropout.p, attention_dropout=attention.dropout.p, norm=model.norm,
        token_shift=bool(_kinds(model, PreShiftTokens)), qkv_bias=attention.to_q.bias is not None,
        out_bias=attention.to_out.bias is not None, positions=positions, axial_shape=axial_shape,
        redraw_interval=model.proj_updater.feature_redraw_interval,
    )  # fmt: skip


def _performer_state(model: Any) -> dict[str, Tensor]:
    """The weights of a Performer under the core's names."""
    renamed = {
        "to_q": "layer.query", "to_k": "layer.key", "to_v": "layer.value", "to_out": "layer.output", "w1": "layer.expand",
        "w2": "layer.contract", "fast_attention.projection_matrix": "layer.favor.projection",
    }  # fmt: skip
    gain = "gain.gain" if model.norm == "rezero" else "norm.gain"
    state = {}
    for name, value in model.state_dict().items():
        match = re.fullmatch(r"net\.layers\.(\d+)\.([01])\.(?:fn\.)*(.+?)(\.weight|\.bias|)", name)
        if match is None:
            continue
        index, turn, rest, end = match.groups()
        branch = "attention" if turn == "0" else "feed_forward"
        state[f"stack.blocks.{index}.{branch}.{gain if rest == 'g' else renamed.get(rest, rest)}{end}"] = value
    if _efficient(model):
        state = {name: value for name, value in state.items() if not name.endswith(".projection")}
    return state


def _efficient(model: Any) -> bool:
    from .performer_pytorch.fast_attention import FastAttention

    return _kinds(model, FastAttention)[0].no_projection


def _kinds(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """The modules of one kind, in order."""
    return [module for module in model.modules() if isinstance(module, kind)]


def _performer_lm(model: Any) -> nn.Module:
    from ..heads.language_model import LanguageModel

    performer, tables = model.performer, model.pos_emb
    bias = None if model.to_out is None else model.to_out.bias
    _refuse(
        "PerformerLM",
        (model.rotary_width is not None, "rotary_position_emb=True adds sinusoids and rotates as well, and the core does one of them"),
        (bias is not None and bool(bias.any()), "the logits have a bias; the core's head has none (tie_embed=True has none either)"),
        (performer.norm == "scale", "use_scalenorm=True ends in a layer norm, and the core in a scale norm"),
    )
    shape = getattr(tables, "shape", None)
    _refuse("PerformerLM", (shape is not None and len(shape) != 2, f"axial_position_shape {shape} has not two axes, as the core's"))
    config = _performer_config(performer, "learned" if shape is None else "axial", shape)
    _refuse("PerformerLM", (model.dropout.p != config.dropout, "emb_dropout differs from ff_dropout; the core has one value for both"))
    twin = LanguageModel(
        config, vocab_size=model.token_emb.num_embeddings, max_length=model.max_seq_len, tie_embeddings=model.to_out is None
    )
    state = {f"backbone.{name}": value for name, value in _performer_state(performer).items()}
    state["embedding.table.weight"] = model.token_emb.weight
    state.update(_linear("norm.", model.norm))
    if model.to_out is not None:
        state["head.weight"] = model.to_out.weight
    if shape is None:
        state["embedding.positions.table.weight"] = tables.emb.weight
    else:
        rows, columns = (table.flatten(0, -2) for table in tables.weights)
        state.update({"embedding.positions.rows_table": rows, "embedding.positions.columns_table": columns})
    if twin.embedding.mask_vector is not None:
        state["embedding.mask_vector"] = twin.embedding.mask_vector  # new: the published model has no [MASK]
    twin.load_state_dict(state, strict=True)
    return twin


def _norm(prefix: str, norm: Any) -> dict[str, Tensor]:
    return _linear(prefix + "norm.", norm)


def _linear(prefix: str, layer: Any) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in (("weight", layer.weight), ("bias", layer.bias)) if value is not None}


def _refuse(name: str, *obstacles: tuple[bool, str]) -> None:
    for present, why in obstacles:
        if present:
            raise ValueError(f"{name} has no core twin: {why}")


@torch.no_grad()
def _difference(model: nn.Module, twin: nn.Module) -> float:
    """Relative difference of the outputs on a short random input, in evaluation and double precision."""
    model, twin = (copy.deepcopy(each).double().eval() for each in (model, twin))
    generator = torch.Generator().manual_seed(0)
    limit = min(32, *(getattr(model, name, 32) for name in ("seq_len", "max_seq_len")))
    device = next(model.parameters()).device
    if hasattr(model, "token_emb"):
        x = torch.randint(model.token_emb.num_embeddings, (2, limit), generator=generator).to(device)  # type: ignore[arg-type, union-attr]
    else:
        x = torch.randn(2, limit, model.dim, generator=generator, dtype=torch.float64).to(device)  # type: ignore[call-overload]
    expected, found = model(x), twin(x)
    return float((expected - found).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt().clamp_min(1e-12))


_RECIPES: dict[tuple[str, str], Callable[[Any], nn.Module]] = {
    ("linformer", "Linformer"): _linformer,
    ("linformer", "LinformerSelfAttention"): _linformer_attention,
    ("performer_pytorch", "Performer"): _performer,
    ("performer_pytorch", "PerformerLM"): _performer_lm,
}
_RAW_KEYS = "its global key averages raw keys, and the core, as the paper, keys times the global query"
_OBSTACLES = {
    ("linformer", "LinformerLM"): "it has no norm before the logits, and a bias on them; upgrade its .linformer instead",
    ("fast_transformer_pytorch", "FastTransformer"): _RAW_KEYS,
    ("fast_transformer_pytorch", "FastAttention"): _RAW_KEYS,
    ("feedback_transformer_pytorch", "FeedbackTransformer"): "its memories are not normalised, and their distances are not the true ones",
    ("perceiver_ar_pytorch", "PerceiverAR"): "it has learned and rotary positions at once, and no norm before the logits",
    ("performer_pytorch", "PerformerEncDec"): "each decoder layer has a feed-forward layer more than the core's",
}
