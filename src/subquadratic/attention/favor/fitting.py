"""Fitting the fixed geometry of FAVOR+ layers to a sample."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from .mixing import FavorHeads


@contextlib.contextmanager
def fitting(model: nn.Module) -> Iterator[None]:
    """Within this context every layer of FAVOR+ in a model takes, at each call, the geometry for the queries and keys that it is given, and
    then computes with it. One call of the model fits all its layers, each to what the fitted ones before it give:

        with torch.no_grad(), fitting(model):
            model(tokens, mask=mask)

    Causal attention and cross-attention have such a geometry, with ``estimator="optimal"`` or ``"dense"``, ``center=True`` or a
    ``balance``; layers without these options are left alone.

    Raises:
        ValueError: if there is no layer with these options in the model, or none was called in the context.
    """
    heads = [module for module in model.modules() if isinstance(module, FavorHeads) and module.fixed is not None]
    if not heads:
        raise ValueError("the model has no layer of FAVOR+ with estimator='optimal' or 'dense', center=True or a balance: nothing to fit")

    fitted: list[nn.Module] = []

    def fit(module: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        fitted.append(module)
        module.fit_(*given, **options)  # type: ignore[operator]

    hooks = [module.register_forward_pre_hook(fit, with_kwargs=True) for module in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not fitted:
        raise ValueError("nothing was fitted: call the model within fitting(model), by its forward")
