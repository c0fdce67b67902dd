"""Token mixers, one folder per mechanism: drop-in layers that map (B, N, D) to (B, N, D)."""

from .additive.layer import AdditiveAttention
from .favor.layer import FavorAttention
from .gated_linear.layer import GatedLinearAttention
from .low_rank.layer import LowRankAttention
from .softmax.layer import SoftmaxAttention
from .softmax.window_layer import WindowAttention

__all__ = ["AdditiveAttention", "FavorAttention", "GatedLinearAttention", "LowRankAttention", "SoftmaxAttention", "WindowAttention"]
