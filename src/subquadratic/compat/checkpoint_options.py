"""What the names and shapes in a published checkpoint say about its model: which one it is, and with what options it was built.

One function per model takes the published state dict, without prefix, and the user's hints. What shapes cannot tell is ``needed`` (a guess
would give wrong results without a word) or ``assumed`` (hardly anyone changes the published default; a hint still can).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core.errors import require

Weights = Mapping[str, Tensor]
Options = dict[str, Any]


@dataclass
class Found:
    """The options of a model, by how they are known."""

    read: Options
    """From names and shapes."""
    needed: dict[str, str] = field(default_factory=dict)
    """Not to be read: option and what it is."""
    assumed: Options = field(default_factory=dict)
    """Not to be read: option and published default."""
    loose: tuple[str, ...] = ()
    """Options in ``read`` that a hint may contradict."""


def linformer_lm(weights: Weights, hints: Options) -> Found:
    """Options of the published LinformerLM."""
    plain = _plain(weights)
    first = "linformer.net.layers.0.0.fn."
    inner, width = plain[first + "to_q.weight"].shape[0], plain[first + "to_k.weight"].shape[0]
    found = Found(_embedding(plain), loose=() if _reversible(weights) else ("reversible",))  # our own twin saves plain names for either
    found.read.update(
        seq_len=plain["pos_emb.weight"].shape[0],
        depth=_count(plain, r"linformer\.net\.layers\.(\d+)\."),
        k=plain[first + "proj_k"].shape[1],
        share_kv=first + "proj_v" not in plain,
        reversible=_reversible(weights),
        one_kv_head=width < inner,
    )
    if width < inner:
        found.read.update(heads=inner // width, dim_head=width)
    else:
        _heads(found, inner, hints)
    return found


def fast_transformer(weights: Weights, hints: Options) -> Found:
    """Options of the published FastTransformer."""
    first = "layers.0.0.fn."
    width = weights[first + "to_r.weight"].shape[0]
    found = Found(_embedding(weights))
    found.read.update(
        depth=_count(weights, r"layers\.(\d+)\."),
        heads=weights[first + "to_qkv.weight"].shape[0] // (3 * width),
        dim_head=width,
        ff_mult=_ratio(weights["layers.0.1.fn.0.weight"].shape[0], found.read["dim"]),
        absolute_pos_emb="abs_pos_emb.weight" in weights,
    )
    if found.read["absolute_pos_emb"]:
        found.read["max_seq_len"] = weights["abs_pos_emb.weight"].shape[0]
    else:
        found.needed["max_seq_len"] = "the longest input; rotary positions leave no trace of it"
    return found


def feedback_transformer(weights: Weights, hints: Options) -> Found:
    """Options of the published FeedbackTransformer."""
    query = _one(weights, r"layers\.0\.0\.(fn\.)+to_q\.weight")
    heads = weights["pos_emb.relative_attention_bias.weight"].shape[1]
    found = Found(_embedding(weights), assumed={"keep_last_hidden": False})
    found.read.update(depth=weights["layer_weight"].shape[0] - 1, heads=heads, dim_head=weights[query].shape[0] // heads)
    found.needed["mem_len"] = "how many memories are kept"
    if query.count("fn.") == 3:  # only models of segments of one token have a wrapper that skips an empty memory
        found.read["seq_len"] = 1
    else:
        found.needed["seq_len"] = "tokens per segment; the published default is 2"
    return found


def perceiver_ar(weights: Weights, hints: Options) -> Found:
    """Options of the published PerceiverAR."""
    inner = weights["perceive_layers.0.0.to_q.weight"].shape[0]
    found = Found(_embedding(weights))
    found.read.update(
        max_seq_len=weights["pos_emb.weight"].shape[0],
        depth=_count(weights, r"layers\.(\d+)\."),
        perceive_depth=_count(weights, r"perceive_layers\.(\d+)\."),
        ff_mult=_ratio(weights["perceive_layers.0.1.1.weight"].shape[0], found.read["dim"]),
    )
    found.needed["cross_attn_seq_len"] = "the length of the prefix"
    fitting = _rotated_heads(weights.get("rotary_pos_emb.inv_freq"), inner)
    if len(fitting) == 1:
        found.read.update(dim_head=fitting[0], heads=inner // fitting[0])
    else:
        _heads(found, inner, hints)
    return found


def performer_lm(weights: Weights, hints: Options) -> Found:
    """Options of the published PerformerLM."""
    plain = _plain(weights)
    layers = "performer.net.layers."
    attention = _one(plain, rf"{re.escape(layers)}0\.0\.(fn\.)+to_q\.weight").removesuffix("to_q.weight")
    inner = plain[attention + "to_q.weight"].shape[0]
    features, width = plain[attention + "fast_attention.projection_matrix"].shape
    found = Found(_embedding(plain), assumed={"generalized_attention": False, "no_projection": False})
    found.read.update(
        heads=inner // width,
        dim_head=width,
        nb_features=features,
        qkv_bias=attention + "to_q.bias" in plain,
        attn_out_bias=attention + "to_out.bias" in plain,
        tie_embed="to_out.weight" not in plain,
        shift_tokens=attention.count(".fn.fn.") > 0,
    )
    if _reversible(weights) or any("proj_updater.instance." in name for name in weights):
        found.read["reversible"] = _reversible(weights)
    else:  # our own twin saves the names of a plain stack for either
        found.needed["reversible"] = "whether the model was built with reversible=True"
    _performer_positions(found, plain)
    _performer_feed_forward(found, plain, layers)
    gain = plain.get(f"{layers}0.0.g")
    found.read.update(use_scalenorm=gain is not None and gain.dim() == 1, use_rezero=gain is not None and gain.dim() == 0)
    _performer_depth(found, plain, layers, hints)
    if any(name.startswith(layers) and ".local_attn." in name for name in plain):
        found.needed["local_attn_heads"] = "how many heads are local; one number, or one per layer"
        found.needed["local_window_size"] = "the window of the local heads; the published default is 256"
    found.needed["causal"] = "whether the model was built with causal=True"
    return found


def performer_enc_dec(weights: Weights, hints: Options) -> Found:
    """Options of the published PerformerEncDec."""
    shared = {"no_projection": hints["no_projection"]} if "no_projection" in hints else {}
    found = Found({}, assumed={"enc_causal": False, "no_projection": False})
    tables = weights.get("enc.token_emb.weight"), weights.get("dec.net.token_emb.weight")
    tied = tables[0] is None or tables[1] is None or (tables[0].shape == tables[1].shape and bool((tables[0] == tables[1]).all()))
    table = tables[0] if tables[0] is not None else tables[1]
    for side, prefix in (("enc_", "enc."), ("dec_", "dec.net.")):
        part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if table is not None:
            part.setdefault("token_emb.weight", table)
        given = {name.removeprefix(side): value for name, value in hints.items() if name.startswith(side)}
        always = {"causal": True, "cross_attend": True} if side == "dec_" else {}
        one = performer_lm(part, {**shared, **given, **always})
        found.read["dim"] = one.read.pop("dim")
        for settled in ("causal", *always):
            one.needed.pop(settled, None)
            one.read.pop(settled, None)
            one.assumed.pop(settled, None)
        one.assumed.pop("no_projection", None)
        found.read.update({side + name: value for name, value in one.read.items()})
        found.needed.update({side + name: value for name, value in one.needed.items()})
        found.assumed.update({side + name: value for name, value in one.assumed.items()})
        found.loose += tuple(side + name for name in one.loose)
    found.read["tie_token_embeds"] = tied
    return found


@dataclass(frozen=True)
class Published:
    """A published model whose checkpoints can be read."""

    package: str
    name: str
    marker: str
    """Matches a name that only its state dicts have; the first group is the prefix of all names."""
    read: Callable[[Weights, Options], Found]


MODELS = (  # an encoder-decoder holds language models, so it is looked for first
    Published("performer_pytorch", "PerformerEncDec", r"(.*?)dec\.net\.performer\.net\.(?:layers|blocks)\..*", performer_enc_dec),
    Published("performer_pytorch", "PerformerLM", r"(.*?)performer\.net\.(?:layers|blocks)\..*", performer_lm),
    Published("linformer", "LinformerLM", r"(.*?)linformer\.net\.(?:layers|blocks)\..*", linformer_lm),
    Published("fast_transformer_pytorch", "FastTransformer", r"(.*?)layers\.0\.0\.fn\.to_q_attn_logits\.weight", fast_transformer),
    Published(
        "feedback_transformer_pytorch",
        "FeedbackTransformer",
        r"(.*?)(?:shared_kv_proj|layers\.0\.0\.(?:fn\.)+to_kv)\.weight",
        feedback_transformer,
    ),
    Published("perceiver_ar_pytorch", "PerceiverAR", r"(.*?)perceive_layers\.0\..*", perceiver_ar),
)


def recognise(weights: Weights) -> tuple[Published, str] | None:
    """The model whose state dict this is, and the prefix of its names ("" or "module.net." or the like); None if it is none of them."""
    for model in MODELS:
        for name in weights:
            match = re.fullmatch(model.marker, name)
            if match and (model.name == "PerformerEncDec" or match[1] + "token_emb.weight" in weights):
                return model, match[1]
    return None


def saved_by_twin(weights: Weights) -> bool:
    """Whether our own Performer saved this: under earlier names, or without the table that the published one keeps of fixed positions."""
    performers = {match[1] for name in weights if (match := re.fullmatch(r"(.*?)performer\.net\..*", name))}
    positions = all(any(name.startswith(f"{prefix}pos_emb.") for name in weights) for prefix in performers)
    return not positions or any(".blocks.0.attention." in name for name in weights)


def _performer_positions(found: Found, plain: Weights) -> None:
    axes = [plain[name] for name in sorted(plain) if re.fullmatch(r"pos_emb\.weights[._]\d+", name)]
    found.read.update(rotary_position_emb="pos_emb.emb" in plain, axial_position_emb=bool(axes))
    if axes:
        shape = tuple(axis.shape[1 + place] for place, axis in enumerate(axes))
        found.read.update(axial_position_shape=shape, max_seq_len=math.prod(shape))
        found.loose = ("max_seq_len",)  # the grid may have been larger than the longest input
    else:
        found.read["max_seq_len"] = plain["pos_emb.emb" if "pos_emb.emb" in plain else "pos_emb.emb.weight"].shape[0]


def _performer_feed_forward(found: Found, plain: Weights, layers: str) -> None:
    expand = plain[_one(plain, rf"{re.escape(layers)}0\.1\.(fn\.)+w1\.weight")].shape[0]
    dim, inner = plain[_one(plain, rf"{re.escape(layers)}0\.1\.(fn\.)+w2\.weight")].shape
    found.read.update(ff_mult=_ratio(inner, dim), ff_glu=expand == 2 * inner)


def _performer_depth(found: Found, plain: Weights, layers: str, hints: Options) -> None:
    """A layer with cross-attention counts as two; token shift, which cross-attention never has, shows which is which."""
    count = _count(plain, rf"{re.escape(layers)}(\d+)\.")
    if found.read["shift_tokens"] or count % 2:
        cross = found.read["cross_attend"] = count % 2 == 0 and f"{layers}1.0.fn.to_q.weight" in plain
    else:
        found.assumed["cross_attend"] = False
        cross = bool(hints.get("cross_attend", False))
    found.read["depth"] = count // 2 if cross else count


def _embedding(weights: Weights) -> Options:
    tokens, dim = weights["token_emb.weight"].shape
    return {"num_tokens": tokens, "dim": dim}


def _heads(found: Found, inner: int, hints: Options) -> None:
    """Heads and their width have only their product in the shapes: one of them has to be given."""
    for given, other in (("heads", "dim_head"), ("dim_head", "heads")):
        number = hints.get(given)
        if isinstance(number, int) and number >= 1:
            require(inner % number == 0, f"{given} must divide {inner}, the width of all heads in this checkpoint, got {number}")
            found.read.update({given: number, other: inner // number})
            return
    found.needed["heads"] = f"how many heads share the width {inner}; the published default is 8"


def _rotated_heads(frequencies: Tensor | None, inner: int) -> list[int]:
    """Head widths that the published rotary frequencies allow; [] when they say nothing (up to width 65 they are all the same)."""
    if frequencies is None or frequencies.numel() <= 16:
        return []
    rotated = round(2 * math.log(10000.0) / -math.log(float(frequencies[1])))  # frequencies are 10000^(-2 i / rotated)
    return [width for width in (2 * rotated, 2 * rotated + 1) if inner % width == 0]


def _plain(weights: Weights) -> dict[str, Tensor]:
    """Names as in a stack that is not reversible."""
    turn = {"f": "0", "g": "1"}
    return {
        re.sub(r"\bnet\.blocks\.(\d+)\.([fg])\.net\.", lambda match: f"net.layers.{match[1]}.{turn[match[2]]}.", name): value
        for name, value in weights.items()
        if ".proj_updater.instance." not in name
    }


def _reversible(weights: Weights) -> bool:
    return any(re.search(r"\bnet\.blocks\.0\.f\.net\.", name) for name in weights)


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _one(weights: Weights, pattern: str) -> str:
    """The name that matches.

    Raises:
        KeyError: if there is none.
    """
    for name in weights:
        if re.fullmatch(pattern, name):
            return name
    raise KeyError(pattern)


def _ratio(inner: int, dim: int) -> int | float:
    return inner // dim if inner % dim == 0 else inner / dim
