"""Grouped heads: fewer heads of keys and values than of queries (GQA), each read by a group of neighbours.

Axes: B batch, H heads of queries, J heads of keys, N length, K head width.
"""

from torch import Tensor


def repeated(tensor: Tensor, heads: int) -> Tensor:
    """(B, J, ...) to (B, H, ...), each head H / J times."""
    times = heads // tensor.shape[1]
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=1)


def grouped(queries: Tensor, heads: int) -> Tensor:
    """(B, H, N, K) to (B, J, H / J N, K): the queries of a group, one after another, for a head of keys that they read as one."""
    return queries if queries.shape[1] == heads else queries.unflatten(1, (heads, -1)).flatten(2, 3)


def ungrouped(output: Tensor, heads: int) -> Tensor:
    """Undo :func:`grouped`: to H = ``heads`` again."""
    return output if output.shape[1] == heads else output.unflatten(2, (heads // output.shape[1], -1)).flatten(1, 2)
