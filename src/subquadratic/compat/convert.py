"""Published checkpoints in, saved models out: ``convert_checkpoint`` writes a folder, ``load`` reads it.

The folder holds config.json (which compat class, with which options, and which of them are ``assumed``: published defaults that shapes
cannot confirm) and model.safetensors.
"""

import difflib
import importlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import require, require_choice
from .checkpoint_options import MODELS, Found, Options, Published, recognise, saved_by_twin
from .state_dicts import read_state_dict

PREFIX = "compat."


def convert_checkpoint(
    path: str | os.PathLike[str], package: str, out: str | os.PathLike[str], *, overwrite: bool = False, **hints: Any
) -> Path:
    """Turn a checkpoint of a published model into a saved model that :func:`load` reads.

    Args:
        path: what ``torch.save`` wrote: a state dict, or a dict that holds one ("model", "state_dict", ...); or a .safetensors file.
            Prefixes of wrappers ("module.", "net.") are recognised. Nothing in the file is executed.
        package: the published package, such as "performer_pytorch".
        out: the folder to write.
        overwrite: replace the model in a folder that is not empty.
        hints: constructor options that shapes do not tell, such as ``heads=8`` or ``causal=True``; strings are read as JSON where they
            can be.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read or is of another package, an option is missing, unknown or contradicts the shapes, or the
            weights do not fit.
        FileExistsError: if ``out`` is not an empty folder and ``overwrite`` is False, or what it would replace is no model of this package.
    """
    require(bool(os.fspath(out)), "out is empty: name a folder")
    path, out = Path(path), Path(out)
    require_choice("package", package, dict.fromkeys(model.package for model in MODELS))
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out={str(out)!r} exists and is not an empty folder: choose another, or pass overwrite=True")
    if out.is_dir():
        from ..heads.files import check_replaceable

        check_replaceable(out)
    weights = read_state_dict(path)
    model, prefix = _identify(weights, package, path)
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    if saved_by_twin(weights):
        raise ValueError(
            f"{path} was saved by our own twin of the {model.name} and not by the published package, and does not hold all that tells the "
            f"options. Build the twin in subquadratic.compat.{package} as it was and call load_state_dict; a model saved with "
            f"save_pretrained needs no conversion"
        )
    given = {name: _value(value) for name, value in hints.items() if value is not None}
    _check_names(model, given)
    try:
        found = model.read(weights, given)
    except KeyError as error:
        raise ValueError(f"{path} looks like a {model.name} but is incomplete: it lacks {error}") from error
    if prefix.endswith("net.") and "causal" in found.needed:
        del found.needed["causal"]
        found.assumed["causal"] = True  # "net" is what the published AutoregressiveWrapper calls its model
    options, assumed = _settle(model, found, given)
    twin = _build(model.package, model.name, options)
    try:
        twin.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {model.name}({_spelled(options)}): {error}") from error
    _save(twin, model, options, assumed, out)
    return out


def load(folder: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None) -> nn.Module:
    """The compat model in a folder that :func:`convert_checkpoint` wrote, in eval mode on the CPU.

    Args:
        dtype: of the floating-point weights: a ``torch.dtype``, or its name ("bfloat16"). None or "auto": each as it was saved.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if it holds something else, or a file is damaged; for another ``dtype``.
    """
    from ..heads.files import CONFIG, WEIGHTS, read_config
    from ..heads.saving import floating_dtype, read_weights, take_dtypes_

    wanted = floating_dtype(dtype)
    folder = Path(folder)
    content = read_config(folder)
    name = str(content["class"])
    known = [f"{PREFIX}{model.package}.{model.name}" for model in MODELS]
    if name not in known:
        way_out = ": subquadratic.load loads it" if not name.startswith(PREFIX) else ""
        raise ValueError(f"{folder} holds a {name}, not a converted model ({', '.join(known)}){way_out}")
    _, package, class_name = name.split(".")
    tensors = read_weights(folder)
    try:
        model = _build(package, class_name, content["options"])
        take_dtypes_(model, tensors, wanted)
        model.load_state_dict(tensors, strict=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return model.eval()


load_converted = load


def _identify(weights: Mapping[str, Tensor], package: str, path: Path) -> tuple[Published, str]:
    recognised = recognise(weights)
    if recognised is None:
        some = ", ".join(list(weights)[:4])
        raise ValueError(f"{path} is not a checkpoint of a model of {package}: its tensors are {some}, ...")
    model, prefix = recognised
    if model.package != package:
        raise ValueError(
            f"{path} is a checkpoint of {model.package} ({model.name}), not of {package}: convert it with package={model.package!r}"
        )
    others = [name for name in weights if not name.startswith(prefix)]
    if others:
        raise ValueError(f"{path} holds a {model.name} under {prefix!r}, and tensors that are not part of it: {', '.join(others[:5])}")
    return model, prefix


def _settle(model: Published, found: Found, hints: Options) -> tuple[Options, Options]:
    """All options, and those of them that nothing confirms."""
    for name, value in found.read.items():
        if name not in found.loose and name in hints and hints[name] != value:
            raise ValueError(f"{name}={hints[name]!r} contradicts the checkpoint, whose shapes say {name}={value!r}")
    missing = {name: why for name, why in found.needed.items() if name not in hints}
    if missing:
        listed = "; ".join(f"{name} ({why})" for name, why in missing.items())
        raise ValueError(f"names and shapes in the checkpoint of a {model.name} do not tell {listed}. Pass {', '.join(missing)}")
    assumed = {name: value for name, value in found.assumed.items() if name not in hints}
    return {**assumed, **found.read, **hints}, assumed


def _check_names(model: Published, hints: Options) -> None:
    allowed = _parameters(model.package, model.name)
    if model.name == "PerformerEncDec":
        allowed += [side + name for side in ("enc_", "dec_") for name in _parameters(model.package, "PerformerLM") if name != "dim"]
    for name in hints:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            raise ValueError(
                f"{model.name} has no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(allowed)}")
            )


def _parameters(package: str, name: str) -> list[str]:
    parameters = inspect.signature(getattr(importlib.import_module(f".{package}", __package__), name)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]


def _value(hint: Any) -> Any:
    """A hint from a command line is a string: ``8``, ``true``, ``[1, 2]`` or a word."""
    if isinstance(hint, list):
        return tuple(hint)
    if not isinstance(hint, str):
        return hint
    try:
        value = json.loads(hint.lower() if hint in ("True", "False", "None") else hint)
    except json.JSONDecodeError:
        return hint
    return tuple(value) if isinstance(value, list) else value


def _build(package: str, name: str, options: Options) -> nn.Module:
    """The compat model; options as in config.json, where tuples are lists and a kernel is the name of a torch.nn module."""
    ready = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    for key in [key for key in ready if key.endswith("kernel_fn") and ready[key] is not None]:
        kernel = getattr(nn, str(ready[key]), None)
        require(
            isinstance(kernel, type) and issubclass(kernel, nn.Module),
            f"{key} must be the name of an activation in torch.nn, such as 'ReLU', got {ready[key]!r}",
        )
        ready[key] = kernel()  # type: ignore[misc]
    return getattr(importlib.import_module(f".{package}", __package__), name)(**ready)


def _spelled(options: Options) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _save(model: nn.Module, published: Published, options: Options, assumed: Options, out: Path) -> None:
    """Written beside ``out`` and renamed: a half-written model is never seen."""
    from ..heads.files import CONFIG, FORMAT, WEIGHTS
    from ..heads.saving import write_tensors

    name = f"{PREFIX}{published.package}.{published.name}"
    content = {"format": FORMAT, "class": name, "model_type": name, "options": options, "assumed": sorted(assumed)}
    tensors = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        write_tensors(tensors, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)  # mkdtemp makes folders that only their owner can enter
        if out.is_dir() and any(out.iterdir()):
            for file in (WEIGHTS, CONFIG):  # what else is in the folder is the user's
                (temporary / file).replace(out / file)
        else:
            temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
