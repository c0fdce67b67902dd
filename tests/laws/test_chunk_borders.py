"""The laws again at lengths around the borders of the chunks that the operations work in (16, 64, 128, windows)."""

from typing import Any

import pytest
import torch

import subquadratic as sq

SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
CONFIGS = [
    pytest.param(config, id=name)
    for name, config in {
        "favor": sq.PerformerConfig(**SMALL, features=12, token_shift=True),
        "favor-epsilon": sq.PerformerConfig(**SMALL, features=12, feature_epsilon=1e-3),
        "favor-relu": sq.PerformerConfig(**SMALL, features=12, kernel="relu"),
        "favor-efficient": sq.PerformerConfig(**SMALL, kernel="efficient"),
        "favor-local": sq.PerformerConfig(**SMALL, features=12, local_heads=1, local_window=32),
        "linformer": sq.LinformerConfig(**SMALL, max_length=300, slots=6),
        "fastformer": sq.FastformerConfig(**SMALL),
        "transformer-window": sq.TransformerConfig(**SMALL, window=32),
    }.items()
]


@pytest.mark.parametrize("length", [16, 17, 33, 64, 65, 128, 129, 257])
@pytest.mark.parametrize("config", CONFIGS)
def test_forward_equals_extend_and_the_future_stays_out(config: sq.BackboneConfig, length: int) -> None:
    backbone, x = config.build().double().eval(), torch.randn(2, length, 16, dtype=torch.float64)
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, : length // 3] = False
    cut = min(length - 1, 64 if length > 64 else 16 if length > 16 else length // 2)
    for given in (None, mask):
        whole = backbone(x, mask=given)
        first, state = backbone.extend(x[:, :cut], backbone.init_state(2), mask=None if given is None else given[:, :cut])
        second, _ = backbone.extend(x[:, cut:], state, mask=None if given is None else given[:, cut:])
        torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-6, atol=1e-9)
    single, changed = x.float(), x.float()
    changed[:, cut:] *= 8
    backbone = backbone.float()
    assert torch.equal(backbone(single)[:, :cut], backbone(changed)[:, :cut])
