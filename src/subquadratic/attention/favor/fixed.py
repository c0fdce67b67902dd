"""The geometry of features that does not come from the sequence: what causal attention has, which may not look at tokens to come, and
cross-attention, whose context is summarised before there are queries.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features.
"""


import torch
from torch import Tensor

from ...core.numerics import Float32Buffers, exact_dtype, no_autocast
from .geometry import Geometry, Moments, feature_bias, geometry_of, moments_of
from .sharp import FixedGeometry


class FixedFeatures(Float32Buffers):
    """Buffers of a :class:`FixedGeometry`, saved with the model, and in float32 at least whatever the model's dtype: a map and its inverse
    have to stay that.

    Until :meth:`fit_` it is the one for queries and keys whose entries are independent and have mean 0 and variance 1.
    """

    def __init__(self, heads: int, projection: Tensor, *, estimator: str, center: bool, balance: str | None):
        super().__init__()
        width = projection.shape[-1]
        self.estimator, self.center, self.balance = estimator, center, balance
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)  # transformers makes half models under a half default
        one = torch.eye(width, dtype=dtype) * width**-0.5
        unit = Moments(torch.zeros(heads, 1, width, dtype=dtype), one.expand(heads, -1, -1))
        geometry = self._geometry(unit, unit)
        for name, value in zip(Geometry._fields, geometry, strict=True):
            self.register_buffer(name, None if value is None else value.clone(memory_format=torch.contiguous_format))
        self.register_buffer("bias", feature_bias(projection.to(dtype), geometry))

    @property
    def value(self) -> FixedGeometry:
        """What the ops take."""
        return FixedGeometry(self._now(), self.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def fit_(self, queries: Tensor, keys: Tensor, projection: Tensor, mask: Tensor | None = None, query_mask: Tensor | None = None) -> None:
        """Take the geometry for these queries (B, H, N, K) and keys (B, H, S, K), all rows of the batch together; masks (B, N), (B, S)."""
        with no_autocast(queries):
            moments = (_pooled(x, real) for x, real in ((queries, query_mask), (keys, mask)))
            for name, value in zip(Geometry._fields, self._geometry(*moments), strict=True):
                if value is not None:
                    getattr(self, name).copy_(value)
        self.redraw_(projection)

    @torch.no_grad()
    def redraw_(self, projection: Tensor) -> None:
        """Follow a new projection (M, K)."""
        if self.bias is not None:
            self.bias.copy_(feature_bias(projection.to(self.bias.dtype), self._now()))  # type: ignore[operator, arg-type]

    def _geometry(self, queries: Moments, keys: Moments) -> Geometry:
        return geometry_of(queries, keys, estimator=self.estimator, center=self.center, balance=self.balance)

    def _now(self) -> Geometry:
        return Geometry(*(getattr(self, name) for name in Geometry._fields))


def _pooled(x: Tensor, mask: Tensor | None) -> Moments:
    """Of (B, H, N, K), over batch and length: (H, 1, K) and (H, K, K)."""
    rows = x.to(exact_dtype(x)).transpose(0, 1).flatten(1, 2)[None]
    mean, covariance = moments_of(rows, None if mask is None else mask.reshape(1, -1))
    return Moments(mean[0], covariance[0])
