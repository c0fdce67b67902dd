"""Saving a model as config.json + model.safetensors, and loading it back. Nothing is pickled; files are replaced whole or not at all."""

import json
import os
import re
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..core.errors import an, require
from ..layers.streaming import Streaming, part_with

# With a head comes every backbone, so that plain torch.load knows the classes of their streaming states.
from ..models import fastformer, gated_linear, linformer, perceiver_ar, performer, transformer  # noqa: F401
from ..models.feedback_transformer import backbone as feedback_transformer  # noqa: F401
from .files import CONFIG, FORMAT, INDEX, QUANTIZED, WEIGHTS, check_replaceable, parts_of_weights, read_config, replace_files
from .quantization import Unfilled, check_quantize, hold_in_8_bits_, is_quantized, quantize_, take_dtype_of_vectors_
from .shim import SHIM, TEXT, hub_keys


class Pretrained(Streaming):
    """A model that knows the options it was built with (``options()``) and how to be built from them (``from_options``)."""

    def options(self) -> dict[str, Any]:
        """Constructor options as plain values, ready for JSON."""
        raise NotImplementedError

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """The model that :meth:`options` describes, freshly initialised."""
        raise NotImplementedError

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Redraw random projections in place, in every part that has any, in order."""
        for part in self.children():
            if (drawn := part_with(part, "redraw_")) is not None:
                drawn.redraw_(generator)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors into the folder ``path``, which is made if missing.

        A model of this package that was saved there is replaced.

        Raises:
            ValueError: if an option has no plain form (a callable kernel), ``path`` is empty, or a weight is no plain tensor (quantised).
            FileExistsError: if the folder has a config.json or a model.safetensors that this package did not write.
            OSError: if the folder cannot be written; files that were there stay as they were.
        """
        if not os.fspath(path):
            raise ValueError("path is empty: name a folder")
        options, name = self.options(), type(self).__name__
        hub = hub_keys(name, causal=options.get("config", {}).get("causal", True))
        held = {"quantize": "int8"} if is_quantized(self) else {}
        content = {"format": FORMAT, "class": name, **hub, **options, **held}
        folder = Path(path)
        check_replaceable(folder)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        _check_writable(tensors)
        folder.mkdir(parents=True, exist_ok=True)
        older = parts_of_weights(folder)
        replace_files(
            {
                folder / CONFIG: lambda file: file.write_text(json.dumps(content, indent=2) + "\n"),
                folder / WEIGHTS: lambda file: write_tensors(tensors, file),
                **({folder / SHIM: lambda file: file.write_text(TEXT)} if hub else {}),
            }
        )
        for file in older:  # of a model in several files, which is replaced
            file.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None, quantize: str | None = None
    ) -> Self:
        """The model saved in the folder ``path``, on the CPU, in eval mode.

        Args:
            dtype: of the floating-point weights: a ``torch.dtype``, or its name ("bfloat16"). None or "auto": each as it was saved.
            quantize: "int8": hold the weights of maps and token tables in 8 bits, as :func:`subquadratic.quantize_` does. None: as they
                were saved; weights that were saved in 8 bits stay in them.

        Raises:
            FileNotFoundError: if ``path`` holds no saved model.
            ValueError: if it holds another kind of model, of another format, or damaged files; for another ``dtype`` or ``quantize``.
        """
        wanted = floating_dtype(dtype)
        if quantize is not None:
            check_quantize(quantize)
        folder = Path(path)
        content = read_config(folder)
        if (name := content.pop("class")) != cls.__name__:
            raise ValueError(f"{folder / CONFIG} describes {an(name)}, not {an(cls.__name__)}: subquadratic.load loads either")
        model = _built(cls, content, folder)
        tensors = read_weights(folder)
        late = quantize is not None and not is_quantized(model)
        take_dtypes_(model, tensors, None if late else wanted)
        take_dtype_of_vectors_(model)
        try:
            model.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
        if late:
            quantize_(model).to(wanted)  # from the digits that were saved
        return model.eval()


def _built(cls: Any, content: dict[str, Any], folder: Path) -> Any:
    """The model that config.json describes, with weights that are still to be loaded."""
    held = content.pop("quantize", None)
    require(held in (None, *QUANTIZED), f"{folder / CONFIG} says quantize={held!r}, which this version does not read")
    try:
        if held is None:
            return cls.from_options(content)
        with Unfilled():
            model = cls.from_options(content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG} does not describe a {cls.__name__}: {error}") from error
    hold_in_8_bits_(model)
    return model


def _check_writable(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        require(
            getattr(tensor, "tensor_impl", None) is None and not hasattr(tensor, "qdata"),
            f"{name} is quantised, {an(type(tensor).__name__)}, which this format does not hold: save the model before it is quantised, "
            "its state_dict() with torch.save, or a SubquadraticForCausalLM, whose save_pretrained holds it",
        )


def floating_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating-point dtype by its name or itself; None for None and "auto".

    Raises:
        ValueError: for anything else.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype must be a floating-point torch.dtype or its name, such as 'float32' or 'bfloat16', or 'auto' for that of the saved "
            f"weights, got {dtype!r}"
        )
    return found


def take_dtypes_(model: nn.Module, tensors: dict[str, Tensor], wanted: torch.dtype | None) -> None:
    """Give a model's floating-point tensors the dtypes of those that it will load, or the one ``wanted``: loading copies into what is
    there, and would round or widen without a word."""
    if wanted is not None:
        model.to(wanted)
        return
    held = dict(model.state_dict(keep_vars=True))
    for name, tensor in tensors.items():
        here = held.get(name)
        if here is not None and here.is_floating_point() and tensor.is_floating_point() and here.dtype is not tensor.dtype:
            here.data = here.data.to(tensor.dtype)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a saved model, on the CPU; from several files too, as transformers writes a large one.

    Raises:
        FileNotFoundError, ValueError: if model.safetensors is missing or damaged.
    """
    if (folder / WEIGHTS).is_file():
        return read_tensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has {CONFIG} but no {WEIGHTS}")
    try:
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX} does not say in which files the weights are: {error!r}") from error
    return {name: tensor for file in files for name, tensor in read_tensors(folder / Path(file).name).items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU.

    Raises:
        ValueError: if it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or cut short: {error}") from error


def write_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """A .safetensors file.

    Raises:
        OSError: if it cannot be written; safetensors itself says so in words only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
