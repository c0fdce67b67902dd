"""The names that checkpoints of the Performer have had, turned into those of today while a state dict is loaded."""

import re
from typing import Any

from torch import nn

DUPLICATES = "proj_updater.instance."  # the published model registers its layers twice
# Names of this twin before it had the published ones
EARLIER = re.compile(r"net\.blocks\.(\d+)\.(attention|cross_attention|feed_forward)\.(.+)")


def rename_performer_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load-state-dict hook of the Performer. A name that stands for nothing stays, to be reported."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith(DUPLICATES):  # a tool that drops duplicates may have kept this one only
            state_dict.setdefault(f"{prefix}net.{name.removeprefix(DUPLICATES)}", state_dict.pop(key))
        elif match := EARLIER.fullmatch(name):
            state_dict[prefix + _renamed(module, int(match[1]), match[2], match[3])] = state_dict.pop(key)


def _renamed(module: Any, layer: int, branch: str, rest: str) -> str:
    turn = int(branch == "feed_forward")
    start = f"net.layers.{layer}.{turn}."
    if rest in ("norm.gain", "gain.gain"):
        return start + "g"
    if not rest.startswith("layer."):
        return start + rest
    wrappers = "fn." * (1 + turn)  # the feed-forward layer is in a Chunk
    if len(module.net.layers) > layer and hasattr(module.net.layers[layer][turn].fn, "shifts"):
        wrappers += "fn."
    rest = rest.removeprefix("layer.").replace("expand.", "w1.", 1).replace("contract.", "w2.", 1)
    return start + wrappers + rest
