"""Law 3 where numbers are none: NaN, infinity and overflow of a later token, or of padding, change no bit of an earlier or a real one."""

import pytest
import torch

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.core.causality import keep_out

from .matrix import configs, inputs

BAD = {"nan": torch.nan, "infinity": torch.inf, "overflow": 3e38}
LENGTH, AT = 30, 20


def reach(config: sq.BackboneConfig) -> int:
    """How many positions before it a bad number may reach: those of its segment, where a paper's approximation computes one at once."""
    return getattr(config, "segment_length", 1) - 1


def causal_configs() -> list:
    return [param for param in configs() if getattr(param.values[0], "causal", True)]


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("config", causal_configs())
def test_no_number_of_a_later_token_reaches_an_earlier_output(config: sq.BackboneConfig, backend: str) -> None:
    model, x = config.build().float().eval(), inputs(2, LENGTH, config.dim).float()
    with use_backend(backend), torch.no_grad():
        expected, (_, state) = model(x), model.extend(x[:, :5], model.init_state(2))
        goes_on, _ = model.extend(x[:, 5:], state)
        for bad in BAD.values():
            changed = x.clone()
            changed[1, AT] = bad
            stop = AT - reach(config) - (LENGTH - expected.shape[1])
            assert torch.equal(model(changed)[:, : max(stop, 0)], expected[:, : max(stop, 0)])
            stop = AT - reach(config) - 5 if not config.aligned_right else goes_on.shape[1] - (LENGTH - AT)
            found, _ = model.extend(changed[:, 5:], state)
            assert torch.equal(found[:, : max(stop, 0)], goes_on[:, : max(stop, 0)])
            assert torch.equal(found[0], goes_on[0]), "another row of the batch"


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("config", causal_configs())
def test_what_is_no_number_comes_out_as_such(config: sq.BackboneConfig, backend: str) -> None:
    """It is kept from earlier outputs, not swept under the carpet."""
    model, x = config.build().float().eval(), inputs(1, LENGTH, config.dim).float()
    x[:, -3] = torch.nan
    with use_backend(backend), torch.no_grad():
        y = model(x)
    assert y[:, -3].isnan().all()


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("config", configs())
def test_padding_may_hold_anything(config: sq.BackboneConfig, backend: str) -> None:
    model, x = config.build().float().eval(), inputs(3, LENGTH, config.dim).float()
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    mask[0, :4], mask[1, -9:], mask[2, 3:9] = False, False, False
    causal = getattr(config, "causal", True)
    for bad in BAD.values():
        changed = x.masked_fill(~mask[..., None], bad)
        with use_backend(backend):
            assert torch.equal(model(changed, mask=mask), model(x, mask=mask))
            state, other = (model.init_state(3), model.init_state(3)) if causal else (None, None)
            for start, stop in ((0, 6), (6, 7), (7, LENGTH)) if causal else ():
                part = (slice(None), slice(start, stop))
                found, state = model.extend(changed[part], state, mask=mask[part])
                expected, other = model.extend(x[part], other, mask=mask[part])
                assert torch.equal(found, expected)


def test_the_first_bad_position_of_each_row_is_found() -> None:
    """Of a cumulative sum as products with zeros compute it, with a past before the first position."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        seen = torch.ones(40, 43).tril(3)
        return (seen @ x)[..., :1]

    x = torch.randn(5, 1, 43, 1)
    expected = attend(x)
    for row, at in ((1, 3), (2, 20), (3, 42)):
        x[row, 0, at] = torch.nan
    x[4, 0, 0] = torch.inf  # of the past: nothing is before it
    found = keep_out(attend, (x,), attend(x))
    for row, stop in ((0, 40), (2, 17), (3, 39)):
        assert torch.equal(found[row, :, :stop], expected[row, :, :stop])
        assert found[row, :, stop:].isnan().all()
    assert found[1].isnan().all()


def test_it_is_kept_out_where_gradients_are_recorded() -> None:
    model, x = sq.TransformerConfig(dim=16, depth=1, heads=2).build(), inputs(1, LENGTH, 16).float()
    x[:, AT] = torch.nan
    y = model(x)
    assert y[:, :AT].isfinite().all() and not y[:, AT:].isfinite().any()


WINDOWED = {
    "sliding": sq.TransformerConfig(dim=16, depth=2, heads=2, window=9),
    "narrow": sq.TransformerConfig(dim=16, depth=2, heads=2, window=3),
    "local heads": sq.PerformerConfig(dim=16, depth=2, heads=2, local_heads=1, local_window=7),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_windows_keep_it_out_in_forward_and_in_pieces(name: str, dtype: torch.dtype, padded: bool) -> None:
    torch.manual_seed(0)
    model = WINDOWED[name].build().to(dtype).eval()
    x = torch.randn(2, 20, 16).to(dtype)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, 2] = not padded
    options = {"mask": mask} if padded else {}
    for at in (4, 8, 15):
        changed = x.clone()
        changed[1, at:] = torch.nan
        assert torch.equal(model(changed, **options)[:, :at], model(x, **options)[:, :at])
        for pieces in ((1, 8, 11), (3, 17), (5, 2, 6, 7)):
            found, wanted = [], []
            state = other = model.init_state(2)
            for part, plain, real in zip(changed.split(pieces, 1), x.split(pieces, 1), mask.split(pieces, 1), strict=True):
                options = {"mask": real} if padded else {}
                y, state = model.extend(part, state, **options)
                z, other = model.extend(plain, other, **options)
                found.append(y)
                wanted.append(z)
            options = {"mask": mask} if padded else {}
            assert torch.equal(torch.cat(found, 1)[:, :at], torch.cat(wanted, 1)[:, :at])
