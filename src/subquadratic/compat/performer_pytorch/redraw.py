"""When the random features of a model are drawn anew: after a number of forward calls in training, as published."""

import hashlib

import torch
from torch import Tensor, nn

from .fast_attention import FastAttention


class ProjectionUpdater(nn.Module):
    """Counts forward calls in training and redraws the features of every :class:`FastAttention` in ``instance`` when it is time.

    The count lives in a buffer, like the features themselves, so a resumed run goes on where it stopped. Every process of a distributed run
    draws the same features, because the matrix that is replaced seeds its successor. Calls inside ``torch.compile`` are not counted: call
    ``redraw_`` on the model there.

    Args:
        instance: the model; not registered here, so its tensors appear once in a state dict.
        feature_redraw_interval: calls from one redraw to the next; None = never.
    """

    calls_since_last_redraw: Tensor

    def __init__(self, instance: nn.Module, feature_redraw_interval: int | None):
        super().__init__()
        self._instance = (instance,)  # a tuple hides the module from registration
        self.feature_redraw_interval = feature_redraw_interval
        self.register_buffer("calls_since_last_redraw", torch.tensor(0))
        self._known = (-1, 0)  # the buffer's version and what it held: asked of the device only when somebody else wrote to it
        self.register_load_state_dict_pre_hook(_forget_instance)

    @property
    def instance(self) -> nn.Module:
        """The model whose features are redrawn."""
        return self._instance[0]

    def fix_projections_(self) -> None:
        """Never redraw again."""
        self.feature_redraw_interval = None

    @torch.no_grad()
    def redraw_projections(self) -> None:
        """One forward call, for the count. Does nothing in eval mode."""
        if not self.training or torch.compiler.is_compiling():
            return
        calls = self._count()
        if self.feature_redraw_interval is not None and calls >= self.feature_redraw_interval:
            self.redraw_(agreed_generator(self.instance))
            self.calls_since_last_redraw.zero_()
            calls = 0
        else:
            self.calls_since_last_redraw.add_(1)
            calls += 1
        self._known = (self.calls_since_last_redraw._version, calls)

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Redraw now; ``generator`` is a CPU generator, None the global one."""
        redraw_all_(self.instance, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Counts a call and gives x back."""
        self.redraw_projections()
        return x

    def _count(self) -> int:
        version = self.calls_since_last_redraw._version
        if self._known[0] != version:
            self._known = (version, int(self.calls_since_last_redraw))
        return self._known[1]


def redraw_all_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """New random features for every :class:`FastAttention` in ``model``."""
    for module in model.modules():
        if isinstance(module, FastAttention):
            module.redraw_(generator)


def agreed_generator(model: nn.Module) -> torch.Generator:
    """A generator that is the same wherever the current features of ``model`` are the same."""
    generator = torch.Generator()
    for module in model.modules():
        if isinstance(module, FastAttention):
            content = module.projection_matrix.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            return generator.manual_seed(int.from_bytes(hashlib.sha256(content).digest()[:7]))
    return generator


def _forget_instance(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + "instance.")]:
        del state_dict[key]
