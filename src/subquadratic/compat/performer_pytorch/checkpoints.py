"""The published names of parameters, turned into ours while a state dict is loaded."""

import re
from typing import Any

from torch import nn

# A branch of a layer, plain (layers.3.0) or reversible (blocks.3.f.net), under any number of wrappers (fn.)
BRANCH = re.compile(r"net\.(?:layers\.(\d+)\.([01])|blocks\.(\d+)\.([fg])\.net)\.(?:fn\.)*(.+)")
DUPLICATES = "proj_updater.instance."  # the published model registers its layers twice


def rename_performer_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load-state-dict hook of the Performer. Our own names pass unchanged; one that stands for nothing of ours stays, to be reported."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name.startswith(DUPLICATES):  # a tool that drops duplicates may have kept this one only
            tensor = state_dict.pop(key)
            name = "net." + name.removeprefix(DUPLICATES)
            if prefix + name in state_dict or prefix + rename(name, module) in state_dict:
                continue
            state_dict[prefix + rename(name, module)] = tensor
        elif (ours := rename(name, module)) != name:
            state_dict[prefix + ours] = state_dict.pop(key)


def rename(name: str, module: Any) -> str:
    """Our name for a published one, seen from the Performer ``module``."""
    match = BRANCH.fullmatch(name)
    if match is None:
        return name
    layer, which, rest = match[1] or match[3], match[2] or match[4], match[5]
    if which in "1g":
        branch = "feed_forward"
    else:
        branch = "cross_attention" if module.cross_attend and int(layer) % 2 else "attention"
    if rest == "g":
        rest = "gain.gain" if module.norm == "rezero" else "norm.gain"
    elif not rest.startswith("norm."):
        rest = "layer." + rest.replace("w1.", "expand.").replace("w2.", "contract.")
    return f"net.blocks.{layer}.{branch}.{rest}"
