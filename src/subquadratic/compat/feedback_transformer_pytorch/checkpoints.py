"""State dicts of the Feedback Transformer: the key-value map that all layers share once, and the names that earlier twins saved."""

import re
from typing import Any

import torch
from torch import nn

from ..shared_modules import load_all, save_once

EARLIER = {  # names of this twin before it had the published ones, after "stack.layers.<index>.": turn, and name below the PreNorm
    r"norm\.(\w+)": (0, r"norm.\1"),
    r"attention\.query\.weight": (0, r"fn.to_q.weight"),
    r"attention\.output\.(\w+)": (0, r"fn.to_out.\1"),
    r"feed_forward\.norm\.(\w+)": (1, r"norm.\1"),
    r"feed_forward\.layer\.expand\.(\w+)": (1, r"fn.net.0.\1"),
    r"feed_forward\.layer\.contract\.(\w+)": (1, r"fn.net.3.\1"),
}
WHOLE = {
    "stack.memory.key_value.weight": "shared_kv_proj.weight",
    "stack.memory.layer_weight": "layer_weight",
    "pos_emb.table": "pos_emb.relative_attention_bias.weight",
}
ATTENTION = re.compile(r"layers\.(\d+)\.0\.(?:fn\.)+(norm\.\w+|to_\w+\.\w+)")


def save_shared_once(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Of the map's names only the first is saved, the one in ``named_parameters``."""
    save_once(module, module.shared_kv_proj, state_dict, prefix)  # type: ignore[arg-type]


def load_names(module: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Load-state-dict hook: earlier names, and the published ones whatever ``seq_len`` wraps around a layer.

    The published state dict has the shared map there once a layer and once more: all copies must agree.
    """
    *_, errors = rest
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if (ours := _renamed(module, name)) != name:
            value = state_dict.pop(key)
            if ".net.0." in ours and name.startswith("stack."):
                value = torch.cat(value.chunk(2)[::-1])  # the gate was the first half, and is the second
            state_dict[prefix + ours] = value
    load_all(module, module.shared_kv_proj, state_dict, prefix, errors)
    if module.keep_last_hidden:
        state_dict.setdefault(f"{prefix}layer_weight", module.layer_weight.detach())  # not read, and not there in earlier files


def _wrappers(module: Any) -> str:
    """What is around a layer's PreNorm: a Residual, and for segments of one token what skips an empty memory."""
    return "fn." * (2 if module.seq_len == 1 else 1)


def _renamed(module: Any, name: str) -> str:
    attention = _wrappers(module)
    if name in WHOLE:
        return WHOLE[name]
    if match := ATTENTION.fullmatch(name):
        inner = match[2] if match[2].startswith("norm.") else f"fn.{match[2]}"
        return f"layers.{match[1]}.0.{attention}{inner}"
    if name.startswith("stack.layers."):
        index, rest = name.removeprefix("stack.layers.").split(".", 1)
        for pattern, (turn, replacement) in EARLIER.items():
            if found := re.fullmatch(pattern, rest):
                return f"layers.{index}.{turn}.{'fn.' if turn else attention}{found.expand(replacement)}"
    return name
