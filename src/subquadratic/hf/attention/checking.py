"""Whether a model of transformers really computes with our attention, found by one forward.

Many models accept any registered name and never call the function; others hand it to some of their parts only.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calls import listening
from .options import NAMES

COMPUTES = re.compile(r"softmax\(|scaled_dot_product_attention|attention_interface\(")  # in a class's source: it mixes positions itself


@dataclass(frozen=True)
class Report:
    """What one forward showed.

    Attributes:
        called: the implementation that each attention module called, by the module's name.
        silent: names of attention modules that took part and called none of ours.
    """

    called: dict[str, str]
    silent: list[str]


def check(model: nn.Module, *, partial: bool = False, **inputs: Any) -> Report:
    """Run one forward without gradients, and see which attention modules call our functions.

    Args:
        model: a model of transformers, loaded with one of our implementations. Its mode and the random state are left as they were.
        partial: some attention modules may compute otherwise, for instance those of a part that was given another implementation.
        inputs: of the forward; none: a few tokens, an image of the configured size, or a second of silence, as the model takes them.

    Raises:
        RuntimeError: if no module called our functions, or without ``partial`` only some did. The message names modules that did not.
        ValueError: if there are no ``inputs`` and what the model takes is unknown.
    """
    inputs = inputs or dry_inputs(model)
    names = {id(module): name for name, module in model.named_modules()}
    with listening() as calls, _ran(model) as ran, _in_evaluation(model), torch.random.fork_rng(devices=[]), torch.no_grad():
        model(**inputs)
    called = {names.get(key, "?"): implementation for key, implementation in calls.items()}
    silent = [names[key] for key in ran if key not in calls]
    if not called:
        where = f": {_few(silent)} compute for themselves" if silent else ""
        name = type(model).__name__
        raise RuntimeError(f"{name} accepts the name of an attention implementation, and called none of {', '.join(NAMES)}{where}")
    if silent and not partial:
        raise RuntimeError(
            f"{len(called)} attention modules of {type(model).__name__} call our attention, {len(silent)} do not ({_few(silent)}): "
            f"pass partial=True if that is meant"
        )
    return Report(called, silent)


def dry_inputs(model: nn.Module) -> dict[str, Tensor]:
    """The smallest inputs of a forward that a model's configuration tells.

    Raises:
        ValueError: for a model that takes something else than tokens, images or sound.
    """
    config: Any = model.config
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    main = getattr(model, "main_input_name", "input_ids")
    tokens = torch.ones(1, 8, dtype=torch.int64, device=device)
    if main == "input_ids":
        inputs = {main: tokens}
    elif main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        inputs = {main: torch.zeros(1, getattr(config, "num_channels", 3), height, width, device=device, dtype=dtype)}
    elif main == "input_values":
        inputs = {main: torch.zeros(1, 16_000, device=device, dtype=dtype)}
    elif main == "input_features" and hasattr(config, "max_source_positions"):
        inputs = {main: torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions, device=device, dtype=dtype)}
    else:
        name = type(model).__name__
        raise ValueError(f"{name} takes {main}, of a shape that its configuration does not tell: pass the inputs of a forward")
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = tokens
    return inputs


def _computes(module: nn.Module) -> bool:
    """Whether a module computes attention for itself, going by its class's name and source."""
    if "Attention" not in type(module).__name__:
        return False
    try:
        return COMPUTES.search(inspect.getsource(type(module))) is not None
    except (OSError, TypeError):
        return False


@contextmanager
def _ran(model: nn.Module) -> Iterator[list[int]]:
    """The ids of the modules that compute attention and take part in a forward while the context is open."""
    ran: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: None if id(module) in ran else ran.append(id(module)))
        for module in model.modules()
        if _computes(module)
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
