"""What all our models of transformers share: weights, files, checkpointing, and what they refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..core.errors import require
from ..heads.initial_weights import MAPS
from ..layers.residual import ResidualStack
from ..models.config import BackboneConfig
from .configuration import SubquadraticConfig
from .weights import SavedAsOurs

REFUSED = {
    "output_hidden_states": "hidden states between the layers are not given: last_hidden_state is (AutoModel)",
    "output_attentions": "attention matrices are not given: these mechanisms never make them",
    "head_mask": "heads cannot be masked",
    "token_type_ids": "there are no token types",
}


def refuse(given: dict[str, Any]) -> None:
    """Raises ValueError for what changes results in other models and cannot here.

    What is not known is let be, as everywhere in transformers: collators, trainers and ``generate`` send along what most models ignore.
    """
    for name, value in given.items():
        if name not in REFUSED or value is None or value is False or (name == "token_type_ids" and not bool(value.any())):
            continue
        raise ValueError(f"{name}: {REFUSED[name]}; got {value!r:.80}")


class SubquadraticPreTrainedModel(SavedAsOurs, PreTrainedModel):
    """Base of the models of :mod:`subquadratic.hf`."""

    config_class = SubquadraticConfig
    config: SubquadraticConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["favor.projection", "favor.fixed"]
    _is_stateful = True
    _supports_attention_backend = False

    def post_init(self) -> None:
        """Nothing is drawn anew: the parts drew their weights when they were made, unless they are only shapes yet."""
        self._made_to_cache = self.config.use_cache
        for tensor in (*self.parameters(), *self.buffers()):
            if not tensor.is_meta:
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]
        if self.saved_class is not None:
            self.register_load_state_dict_pre_hook(type(self)._take_our_names)
        super().post_init()
        kinds = {type(module).__name__ for module in self.modules()}  # accelerate asks for each of them when it shards
        whole = "FeedbackTransformer" in kinds  # whose parts are called once for each position, and across each other
        self._no_split_modules = ["FeedbackTransformer"] if whole else [name for name in ("Branch", "CrossLayer") if name in kinds]

    def initialize_weights(self) -> None:
        """What a checkpoint does not hold gets the values of a model that is made anew."""
        self._fill_missing()
        super().initialize_weights()

    @torch.no_grad()
    def _fill_missing(self) -> None:
        held = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        missing = {
            name: tensor
            for name, tensor in held.items()
            if not getattr(tensor, "_is_hf_initialized", False) and not tensor.is_meta and name not in (self.all_tied_weights_keys or {})
        }
        if not missing:
            return
        with torch.device("cpu"):
            fresh = type(self)(self.config)
        drawn = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        for name, tensor in missing.items():
            init.copy_(tensor, drawn[name].to(tensor))
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Plain weights, for a table that is resized."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=MAPS)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)

    def _set_gradient_checkpointing(self, enable: bool = True, *unused: Any, **named: Any) -> None:
        """Our backbones recompute activations by themselves: their ``checkpointing``."""
        for module in self.modules():
            part: Any = module
            if isinstance(config := getattr(part, "config", None), BackboneConfig) and not config.reversible:  # which recomputes already
                part.config = config.replace(checkpointing=enable)
            if isinstance(part, ResidualStack) and not part.reversible:
                part.checkpointing = enable
        self._recomputes = enable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in backward."""
        return getattr(self, "_recomputes", False)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: see :meth:`SubquadraticConfig.register_for_auto_class`."""


def require_causal(config: SubquadraticConfig, causal: bool, name: str, instead: str) -> None:
    """Raises ValueError for a head that does not go with the direction of a backbone."""
    backbone = config.backbone_config
    what = "causal" if causal else "bidirectional"
    require(
        backbone.causal == causal,
        f"{name} needs a {what} backbone, got {backbone.model_type} with causal={backbone.causal}: "
        f"set causal={causal} in backbone, or use {instead}",
    )
