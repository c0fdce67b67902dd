"""The weights that heads start from."""

import math
from typing import Any

import torch
from torch import nn

from ..layers.norms.layer import ScaleNorm

MAPS = 0.02  # std of every map
LOGITS = 0.22  # std of the first logits where the table is the output map, which costs half its square in nats
OWN_LOGITS = 0.3  # the most where the output map is its own
RAISED = 0.02  # nats that a token's raising its own logit may cost, where gains cannot have signs
BRANCHES = 4e-4  # of D: about the size of what a block adds to the residual stream, with maps of 0.02


def draw_weights_(model: nn.Module) -> None:
    """Maps N(0, 0.02²) without bias, token and position tables N(0, 1 / D), in place.

    0.02 is GPT-2's. Short runs depend on the draw: with PyTorch's own draw of the maps the first layers drown the embeddings, and 800
    steps of `subq train`'s default Performer end at 2.58 bits per byte instead of 2.35; with tables of 0.02 at 2.96.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=MAPS)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


@torch.no_grad()
def start_uniform_(norm: nn.Module, head: nn.Linear | None, embedding: Any, *, vocab_size: int) -> None:
    """Make the first predictions those of a uniform guess, in place: a loss of log V.

    Args:
        norm: the final norm.
        head: the output map, or None where it is the token table.
        embedding: with the token table, and the position table if there is one.

    An output map of its own keeps its 0.02 as far as the logits allow, and is no smaller: with 0.014 its first steps, which learn how
    frequent the tokens are, drown what was drawn, and 150 steps of `subq train`'s default Performer end at 3.8 bits per byte, not 3.1.

    With a table that is read and predicted from, a token's vector is in the residual stream, so that a gain of 1 gives the token itself a
    logit of up to √D, and the first loss was up to 3.6 bits above log2 V. The gains of a LayerNorm therefore alternate in sign, with
    which that sum of squares cancels. For the other logits' sake the table starts smaller, as far as the blocks do not drown it, and
    beyond that the gains do. They are learned as ever. A ScaleNorm has one gain, so that one starts smaller.
    """
    if head is not None:
        nn.init.normal_(head.weight, std=min(MAPS, OWN_LOGITS * head.in_features**-0.5))
        return
    width = embedding.table.embedding_dim
    share = min(1.0, max(LOGITS, BRANCHES * width**1.5))  # of a table of N(0, 1 / D)
    for parameter in embedding.parameters():
        parameter.mul_(share)
    if isinstance(norm, ScaleNorm):
        norm.gain.fill_(min(LOGITS * width**0.5, math.log1p(RAISED * vocab_size)) / share)
    elif isinstance(norm, nn.LayerNorm):
        norm.weight.fill_(LOGITS / share)
        norm.weight[1::2].neg_()
