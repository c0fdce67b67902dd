"""How models of transformers are saved and loaded in the files of our own: the same names of tensors, the same config.json.

| in the file                                | here                                           |
|--------------------------------------------|------------------------------------------------|
| `embedding.`, `backbone.`, `norm.`         | `model.embedding.`, `model.backbone.`, ...     |
| `head.` of a LanguageModel                 | `lm_head.`                                     |
| `head.` of a SequenceClassifier            | `classifier.`                                  |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..heads.files import WEIGHTS, parts_of_weights, replace_file
from ..heads.shim import SHIM, TEXT, hub_keys
from .configuration import SubquadraticConfig


class SavedAsOurs:
    """Before ``PreTrainedModel`` in the bases of a model."""

    saved_class: ClassVar[str | None] = None
    """The head of ours whose files these are; None: there is none, and the names are transformers' own."""
    head_name: ClassVar[str] = "lm_head"
    """What the file's ``head`` is here."""
    renamed: ClassVar[dict[str, str] | None] = None
    """What beginnings of names in the file are here, where that is not all."""
    _made_to_cache: bool = True
    """``use_cache`` of the configuration that the model was made with, which is the one that is saved."""

    def _take_our_names(self, tensors: dict[str, Tensor], prefix: str, *unused: Any) -> None:
        """Before ``load_state_dict``: the Trainer resumes from the saved file itself, and so by its names."""
        if self.saved_class is None:
            return
        for name in [name for name in tensors if name.startswith(prefix)]:
            known = self._known_name(name.removeprefix(prefix))
            if prefix + known not in tensors:
                tensors[prefix + known] = tensors.pop(name)
        for tied, source in (getattr(self, "all_tied_weights_keys", None) or {}).items():
            if prefix + source in tensors:
                tensors.setdefault(prefix + tied, tensors[prefix + source])

    @classmethod
    def _known_name(cls, name: str) -> str:
        """A tensor's name here, from that in our files or from this itself."""
        for pattern, here in cls._renamed().items():
            if re.match(pattern, name):
                return re.sub(pattern, here, name)
        return f"model.{name}" if cls.renamed is None and re.match(r"(embedding|backbone|norm)\.", name) else name

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As of every model of transformers; also what ``save_pretrained`` of our own heads, or `subq train`, wrote."""
        config = kwargs.get("config")
        if pretrained_model_name_or_path is not None and not isinstance(config, SubquadraticConfig):
            passed = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder", "token", "local_files_only") if name in kwargs}
            config, rest = SubquadraticConfig.from_pretrained(
                pretrained_model_name_or_path if config is None else config, return_unused_kwargs=True, **passed, **_options(kwargs)
            )
            kwargs = {name: value for name, value in kwargs.items() if name not in _options(kwargs) or name in rest} | {"config": config}
        saved = getattr(config, "saved_class", None)
        renamed = cls._renamed() if saved is not None and saved == cls.saved_class else {}
        kwargs["key_mapping"] = renamed | (kwargs.get("key_mapping") or {}) or None
        model = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)  # type: ignore[misc]
        one = model[0] if isinstance(model, tuple) else model
        one.config.saved_class = cls.saved_class
        one._weight_conversions = None
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, state_dict: Mapping[str, Tensor] | None = None, **kwargs: Any) -> None:
        """As of every model of transformers, in the files that :func:`subquadratic.load` reads too, and with the line of Python that lets a
        process open them that never imported this package.

        Raises:
            OSError: if the folder cannot be written.
        """
        model: Any = self
        model.config.saved_class = self.saved_class
        keys = hub_keys(self.saved_class or "LanguageModel", causal=model.config.backbone["causal"])
        model.config.auto_map = keys["auto_map"]
        folder = Path(save_directory)
        main = kwargs.get("is_main_process", True)
        if main and not getattr(self, "_hf_peft_config_loaded", False):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / SHIM, lambda file: file.write_text(TEXT))
        single = folder / (
            WEIGHTS if (variant := kwargs.get("variant")) is None else WEIGHTS.replace(".safetensors", f".{variant}.safetensors")
        )
        before = _written(single)
        tensors = model.state_dict() if state_dict is None else state_dict
        ours = self._in_our_names(tensors)
        if self._own_maps(tensors):
            model.config.tie_word_embeddings = False
        in_use = model.config.use_cache
        model.config.use_cache = self._made_to_cache  # the Trainer switches it off while it trains
        try:
            super().save_pretrained(save_directory, *args, state_dict=ours, **kwargs)  # type: ignore[misc]
        finally:
            model.config.use_cache = in_use
        if main and not getattr(
            self, "_hf_peft_config_loaded", False
        ):  # of a model in several files and one in a single file the older loads
            in_several = parts_of_weights(folder, single.name)
            for file in in_several if _written(single) != before else [single] if in_several else []:
                file.unlink(missing_ok=True)

    def _in_our_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the names of our files. Adapters and offloaded weights, which transformers looks up by name, keep theirs."""
        plain = not (getattr(self, "_hf_peft_config_loaded", False) or getattr(self, "hf_device_map", None) or self.saved_class is None)
        if not plain:
            return dict(tensors)
        tied = (getattr(self, "all_tied_weights_keys", None) or {}).keys() - self._own_maps(tensors)
        back = {r"^model\.": ""} | {
            f"^{re.escape(here)}": there.removeprefix("^").replace("\\", "") for there, here in self._renamed().items()
        }
        found = {}
        for name, tensor in tensors.items():
            if name not in tied:
                pattern = next((one for one in back if re.match(one, name)), None)
                found[name if pattern is None else re.sub(pattern, back[pattern], name)] = tensor
        return found

    def _own_maps(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Those maps of ``all_tied_weights_keys`` that are no longer the table: PEFT's ``modules_to_save``, or another one in its place."""
        model: Any = self
        held = dict(model.named_parameters(remove_duplicate=False))
        found = set()
        for name, source in (getattr(self, "all_tied_weights_keys", None) or {}).items():
            one, two = tensors.get(name), tensors.get(source)
            if (name in held and held[name] is held.get(source)) or one is None or two is None or one.is_meta or two.is_meta:
                continue
            if one.shape != two.shape or not torch.equal(one, two):
                found.add(name)
        return found

    @classmethod
    def _renamed(cls) -> dict[str, str]:
        """Beginnings of names in the file, as patterns, and what they are here."""
        return cls.renamed or {r"^head\.": f"{cls.head_name}."}


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of ``from_pretrained`` that may be fields of the configuration."""
    fields = set(SubquadraticConfig.__dataclass_fields__) | {"num_labels", "id2label", "label2id", "problem_type", "attn_implementation"}
    return {name: value for name, value in kwargs.items() if name in fields - {"dtype"}}


def _written(file: Path) -> tuple[int, int, int] | None:
    """Another value once a file is written again; None: there is none."""
    if not file.exists():
        return None
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size
