"""Code altered under the claims that are about it."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from subquadratic.kernels.native.library import why_not
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import Setting

LEAST = Setting(seed=0, effort=1e-3)
needs_kernels = pytest.mark.skipif(why_not() is not None, reason="no C kernels here")


def measured(claim: str, setting: Setting = LEAST) -> dict[str, bool]:
    """Which conditions are met, by their numbers."""
    outcome = CLAIMS[claim].measure(setting)
    return dict(zip((condition.number for condition in CLAIMS[claim].conditions), outcome.met, strict=True))


def met(claim: str, setting: Setting = LEAST) -> dict[str, bool]:
    """The same of a claim that has to fail."""
    found = measured(claim, setting)
    assert not all(found.values())
    return found


def changed(function: Callable[..., Any], change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Another output, or first of several, in place of a function's."""

    def call(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        return (change(found[0]), *found[1:]) if isinstance(found, tuple) else change(found)

    return call
