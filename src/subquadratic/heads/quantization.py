"""Models whose weights are held in 8 bits, for decoding and evaluation: the maps of all layers and the token tables.

What stays as it was: norms, biases, learned positions, random projections, and a Linformer's projections of positions.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ..core.errors import an, require
from ..layers.linear.int8 import Int8Embedding, Int8Linear, Int8Weight
from ..layers.linear.layer import Linear
from ..layers.untouched import HOUSE, is_untouched
from .embedding import TokenEmbedding
from .files import QUANTIZED

KNOWN = (HOUSE, "torch.nn.modules.")
OTHERS = (f"{HOUSE}compat.", f"{HOUSE}hf.")  # twins of published models and models of transformers have files of their own


def quantize_(model: nn.Module, quantize: str = "int8") -> nn.Module:
    """Hold the weights of a model in 8 bits from now on, in place, and set it to eval mode: a quarter of the memory, and less time for a
    new token of few rows, which is that of reading the weights.

    Weights are int8 with a float32 scale for each output channel of a map (each token of a table): the largest number of a row becomes
    127. Activations are not rounded. Such a model is evaluated, generates, and is saved and loaded as any other; it is not trained.

    Args:
        model: one of ours, as `subquadratic.load` gives it.
        quantize: "int8".

    Returns:
        The same model.

    Raises:
        ValueError: for another value of ``quantize``; a model that is quantised already, or whose modules somebody has wrapped, replaced or
            hooked; weights that are NaN or infinite, before anything was changed.
    """
    check_quantize(quantize)
    require(not is_quantized(model), "the model is quantised already")
    _put_in_place(model, {id(part): _kind(part).of(part) for part in _parts(model)})
    return model.eval()


def is_quantized(model: nn.Module) -> bool:
    """Whether a model holds weights in 8 bits."""
    return any(isinstance(part, Int8Weight) for part in model.modules())


def parameter_count(model: nn.Module) -> int:
    """Numbers that a model learns, or has learned and holds in 8 bits; tied ones once."""
    of_maps = [part for part in model.modules() if isinstance(part, Int8Weight)]
    in_8_bits = sum(part.weight.numel() + (0 if getattr(part, "bias", None) is None else len(part.weight)) for part in of_maps)
    return sum(parameter.numel() for parameter in model.parameters()) + in_8_bits


def check_quantize(quantize: Any) -> None:
    """Raises ValueError unless weights can be held in this way."""
    require(quantize in QUANTIZED, f"quantize must be {' or '.join(map(repr, QUANTIZED))}, got {quantize!r}")


class Unfilled(TorchFunctionMode):
    """While it is open, nothing of ``torch.nn.init`` is done: the memory of weights that are about to be loaded or replaced is not touched,
    and so not taken."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """The tensor as it is, of a function of ``torch.nn.init``."""
        named = named or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else arguments[0]
        return function(*arguments, **named)


def hold_in_8_bits_(model: nn.Module) -> None:
    """Put modules in the place of a model's maps and tables whose 8 bits are still to be loaded."""
    _put_in_place(model, {id(part): _kind(part).unfilled(part) for part in _parts(model)})


def take_dtype_of_vectors_(model: nn.Module) -> None:
    """Give the tables of a model that is about to be loaded the dtype of its norms, which a file has and theirs not."""
    for part in model.modules():
        if isinstance(part, Int8Embedding):
            part.dtype = next(model.parameters()).dtype


def _parts(model: nn.Module) -> list[Any]:
    """The maps and tables that are held in 8 bits."""
    tables = {id(part.table) for part in model.modules() if isinstance(part, TokenEmbedding)}
    found = []
    for name, part in model.named_modules():
        kind = type(part)
        known = kind.__module__.startswith(KNOWN) and not kind.__module__.startswith(OTHERS) and is_untouched(part, kind)
        require(
            known,
            f"{name or 'the model'} cannot be quantised: it is {an(kind.__module__ + '.' + kind.__qualname__)}, or has hooks, an adapter "
            "or another forward. Quantise a plain model of this package, with what was added merged or removed",
        )
        if kind in (Linear, nn.Linear) or id(part) in tables:
            found.append(part)
    require(bool(found), f"{type(model).__name__} has no linear maps to quantise")
    return found


def _kind(part: nn.Module) -> Any:
    return Int8Embedding if type(part) is nn.Embedding else Int8Linear


def _put_in_place(model: nn.Module, made: Mapping[int, Int8Weight]) -> None:
    for part in list(model.modules()):
        for name, child in part.named_children():
            if id(child) in made:
                part.add_module(name, made[id(child)])

