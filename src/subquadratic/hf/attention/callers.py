"""Which architectures of transformers can call our attention at all, going by their source.

Every model accepts every registered name. One whose file never asks for the interface computes for itself, whatever the name.
"""

import inspect
import sys
from functools import cache
from typing import Any

from torch import nn

BIASES = ("use_relative_position_bias", "use_shared_relative_position_bias")  # BEiT adds them to its mask
ASKS = ("ALL_ATTENTION_FUNCTIONS", "AttentionInterface")


def refuse_by_config(config: Any) -> None:
    """Raises NotImplementedError if the models of a configuration never call the interface, or give it position biases as their mask."""
    kind = type(config)
    for option in BIASES:
        if getattr(config, option, False):
            raise NotImplementedError(
                f"{kind.__name__} has {option}=True, which adds a bias to the scores, and attention of linear cost has no scores: "
                f'load this model with attn_implementation="sdpa"'
            )
    if ".configuration_" in kind.__module__ and not asks(kind.__module__.replace(".configuration_", ".modeling_")):
        raise NotImplementedError(_never(getattr(config, "model_type", kind.__name__)))


def refuse_full_encoder(config: Any, queries: int, keys: int) -> None:
    """Raises NotImplementedError for a bidirectional mask of BigBirdPegasus among equally many tokens: its encoder asks for one where it
    attends in full, and then computes for itself. Its decoder calls the interface."""
    if getattr(config, "model_type", None) != "bigbird_pegasus" or not config.is_encoder_decoder or queries != keys:
        return
    reach = (5 + 2 * config.num_random_blocks) * config.block_size  # up to which it attends in full anyway
    if config.attention_type == "original_full" or keys <= reach:
        raise NotImplementedError(
            f'BigBirdPegasus with attention_type="original_full", which it has for sources of up to {reach} tokens whatever it is told, '
            'computes the attention of its encoder for itself: load this model with "eager"'
        )


def refuse_by_model(model: nn.Module) -> None:
    """Raises NotImplementedError if no module of a model has a file that calls the interface."""
    files = {type(module).__module__ for module in model.modules()}
    if not any(asks(file) for file in files if not file.startswith("torch.")):
        raise NotImplementedError(_never(type(model).__name__))


@cache
def asks(module_name: str) -> bool:
    """Whether a module's source mentions the interface; true where there is none to look at."""
    module = sys.modules.get(module_name)
    if module is None:
        return True
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return True
    return any(word in source for word in ASKS)


def _never(name: str) -> str:
    return f'{name} computes its attention for itself and never calls what attn_implementation names: load it with "eager"'
