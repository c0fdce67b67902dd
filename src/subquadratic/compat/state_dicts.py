"""The state dict in a checkpoint that somebody saved in their own way, read without executing anything in the file."""

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = ("model_state_dict", "state_dict", "model", "module", "net", "weights", "params")  # where programs put a model among other things


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The model's state dict in a checkpoint, without executing anything in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds Python objects, or no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        from ..heads.saving import read_tensors

        content: object = read_tensors(path)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats; what matters raises
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(_why_not(path, error)) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is not a PyTorch checkpoint, or is damaged: {_first_line(error)}") from error
    found = _choose(content)
    if found is None:
        raise ValueError(f"{path} holds no state dict (a dict of tensors by name), but {_summary(content)}: save model.state_dict()")
    return {name.replace("_orig_mod.", ""): value for name, value in found.items()}  # torch.compile's wrapper


def _why_not(path: Path, error: Exception) -> str:
    """torch.load's refusals in one line each."""
    if "Unsupported global" not in str(error) and "Unsupported class" not in str(error):
        return f"{path} is not a PyTorch checkpoint, or is damaged"
    culprit = re.search(r"(?:GLOBAL|class|type) ([\w.]+\.\w+)", str(error))
    what = f" ({culprit[1]})" if culprit else ""
    return (
        f"{path} holds Python objects{what}, not only tensors, and reading those would run code from the file: in the program that "
        f"wrote it, save model.state_dict() instead of the model, torch.save(model.state_dict(), 'weights.pt')"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _summary(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {', '.join(map(repr, list(content)[:8])) or 'nothing in it'}"
    return f"a {type(content).__name__}"


def _choose(content: object) -> dict[str, Tensor] | None:
    """Of all state dicts in a checkpoint: the one at the top, else one with a usual name, else the largest."""
    if _is_state_dict(content):
        return dict(content)  # type: ignore[call-overload]
    found = list(_state_dicts(content))
    for name in NAMES:
        for place, candidate in found:
            if place[-1] == name:
                return candidate
    return max((candidate for _, candidate in found), key=len, default=None)


def _state_dicts(content: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(name, str) and not name.startswith("optim"):  # optimizers hold tensors by number
            if _is_state_dict(value):
                yield (*place, name), dict(value)
            else:
                yield from _state_dicts(value, (*place, name))


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )
