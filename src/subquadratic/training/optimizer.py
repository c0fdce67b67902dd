"""AdamW with weight decay where it helps."""

from __future__ import annotations

import torch
from torch import nn


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Matrices decay; norms, biases, gains and embeddings (tied output layers among them) do not."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = [parameter for parameter in parameters if parameter.ndim >= 2 and id(parameter) not in embeddings]
    rest = [parameter for parameter in parameters if parameter.ndim < 2 or id(parameter) in embeddings]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.95), fused=True)
