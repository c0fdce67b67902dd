"""The weights that heads start from."""

import torch
from torch import nn

from ..layers.norms import ScaleNorm

LOGITS = 0.28  # std of the first logits, which costs half its square in nats
RAISED = 0.02  # nats that a token's raising its own logit may cost, where gains cannot have signs


def draw_weights_(model: nn.Module) -> None:
    """Maps N(0, 0.02²) without bias, token and position tables N(0, 1 / D), in place.

    0.02 is GPT-2's. Short runs depend on the draw: with PyTorch's own draw of the maps the first layers drown the embeddings, and 800
    steps of `subq train`'s default Performer end at 2.58 bits per byte instead of 2.35; with tables of 0.02 at 2.96.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


@torch.no_grad()
def start_uniform_(norm: nn.Module, head: nn.Linear | None, *, vocab_size: int) -> None:
    """Make the first predictions those of a uniform guess, in place: a loss of log V.

    Args:
        norm: the final norm.
        head: the output map, or None where it is the token table.

    An output map of its own starts small, but no smaller than that asks: with a std of 0.1 its first steps, which learn how frequent the
    tokens are, drown what was drawn, and 150 steps of `subq train`'s default Performer end at 3.9 bits per byte instead of 3.1. A table
    that is read and predicted from cannot be small: a token's vector is in the residual stream, so a gain of 1 gives the token itself a
    logit of up to √D, and the first loss was up to 3.6 bits above log2 V. The gains of a LayerNorm therefore alternate in sign, with
    which that sum of squares cancels, and are below 1 for the other logits' sake. They are learned as ever. A ScaleNorm has one gain,
    so that one starts smaller.
    """
    if head is not None:
        nn.init.normal_(head.weight, std=LOGITS * head.in_features**-0.5)
    elif isinstance(norm, ScaleNorm):
        norm.gain.fill_(min(LOGITS * norm.gain.item(), torch.tensor(RAISED * vocab_size).log1p().item()))
    elif isinstance(norm, nn.LayerNorm):
        norm.weight.fill_(LOGITS)
        norm.weight[1::2].neg_()
