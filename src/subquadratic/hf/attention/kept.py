"""Models of transformers that keep our attention when they are saved: the checkpoint names it, and brings what registers it.

What transformers saves says nothing of the attention that a model had. A folder that :func:`keep_attention` completed does: its config.json
has ``attn_implementation``, and ``auto_map`` leads to a file of a few lines that imports this package. So it opens as every model does,
``AutoModel.from_pretrained(folder, trust_remote_code=True)``, in a process that never imported this package, too; where
:mod:`subquadratic.hf.attention` is imported, without ``trust_remote_code``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto import auto_factory, modeling_auto

from ...heads.files import CONFIG, replace_file
from .options import NAMES

SHIM = "modeling_subquadratic_attention.py"
NAMED = "attn_implementation"  # a key of config.json that configurations read and never write


class KeepsAttention:
    """Before a class of transformers in the bases: its models are saved with their attention."""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: a registered class has its source copied into each checkpoint, and here that is transformers' own."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As of every model of transformers, with what opens it again with its attention."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            keep_attention(self, Path(save_directory))  # type: ignore[arg-type]


@cache
def keeping(name: str) -> type[Any]:
    """The class of transformers called ``name``, as one whose models keep their attention.

    Raises:
        ValueError: if transformers has none.
    """
    stock = getattr(transformers, name, None)
    if not (isinstance(stock, type) and issubclass(stock, PreTrainedModel)):
        raise ValueError(f"name must be that of a model class of transformers, got {name!r}")
    # In the module of its base: transformers reads there what the attention of a class can be.
    return type(name, (KeepsAttention, stock), {"__module__": stock.__module__, "__doc__": stock.__doc__})


def keep_attention(model: PreTrainedModel, folder: Path) -> None:
    """Complete what ``model.save_pretrained(folder)`` wrote; of a model without our attention nothing is changed.

    Raises:
        OSError: if the folder cannot be written.
    """
    implementation = getattr(model.config, "_attn_implementation", None)
    if implementation not in NAMES or not (folder / CONFIG).is_file():
        return
    classes = auto_classes(model)
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    content[NAMED] = implementation
    content["auto_map"] = {auto: f"{SHIM.removesuffix('.py')}.{name}" for auto, name in classes.items()}
    text = shim_text(sorted(set(classes.values())))
    replace_file(folder / SHIM, lambda file: file.write_text(text, encoding="utf-8"))
    replace_file(folder / CONFIG, lambda file: file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8"))


def auto_classes(model: PreTrainedModel) -> dict[str, str]:
    """The classes that transformers' Auto classes make of a model's configuration, by the name of the Auto class; and its own."""
    kind = type(model.config)
    found: dict[str, str] = {}
    for name, auto in vars(modeling_auto).items():
        if not (isinstance(auto, type) and issubclass(auto, auto_factory._BaseAutoModelClass)) or auto._model_mapping is None:
            continue
        entry = auto._model_mapping.get(kind, None)
        classes = entry if isinstance(entry, tuple) else (entry,)
        names = [one.__name__ for one in classes if one is not None and hasattr(transformers, one.__name__)]
        if names:
            own = type(model).__name__
            found[name] = own if own in names else names[0]
    return found


def shim_text(names: list[str]) -> str:
    """The file that ``auto_map`` leads to."""
    lines = "".join(f'{name} = keeping("{name}")\n' for name in names)
    return f"from subquadratic.hf.attention.kept import keeping  # pip install \"subquadratic[hf]\"\n\n{lines}"
