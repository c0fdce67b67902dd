"""The layer of gated linear attention: its decays, its special cases, and what is refused."""

import pytest
import torch

import subquadratic as sq
from subquadratic.attention.gated_linear.formula import gated_linear_reference


def layer(**options: object) -> sq.attention.GatedLinearAttention:
    return sq.attention.GatedLinearAttention(16, heads=2, **options).double()  # type: ignore[arg-type]


def test_fixed_decays_are_those_of_retnet() -> None:
    fixed = layer(decay="fixed").log_decay.exp().flatten()
    assert torch.allclose(fixed, 1 - torch.tensor([2.0**-5, 2.0**-6], dtype=torch.float64))
    assert not any("decay" in name for name in layer(decay="fixed").state_dict())


@pytest.mark.parametrize("decay", ["channel", "head", "fixed"])
def test_the_equations_of_the_paper(decay: str) -> None:
    mixer, x = layer(decay=decay), torch.randn(2, 9, 16, dtype=torch.float64)

    def heads(y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(-1, (2, -1)).transpose(1, 2)

    if mixer.decay_up is None or mixer.decay_down is None:
        log_decay = mixer.log_decay.expand(2, -1, 9, -1)
    else:
        log_decay = heads(torch.sigmoid(mixer.decay_up(mixer.decay_down(x))) ** (1 / 16)).log()
    y, _ = gated_linear_reference(heads(mixer.query(x)), heads(mixer.key(x)), heads(mixer.value(x)), log_decay)
    y = y / (y.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    assert mixer.gate is not None
    expected = mixer.output(torch.nn.functional.silu(mixer.gate(x)) * y.transpose(1, 2).flatten(2))
    assert torch.allclose(mixer(x), expected)


def test_one_decay_of_all_channels_can_be_written_as_many() -> None:
    one, many = layer(decay="head"), layer()
    many.load_state_dict({k: v for k, v in one.state_dict().items() if not k.startswith("decay_up")}, strict=False)
    assert one.decay_up is not None and many.decay_up is not None
    with torch.no_grad():
        many.decay_up.weight.copy_(one.decay_up.weight.repeat_interleave(4, dim=0))
        many.decay_up.bias.copy_(one.decay_up.bias.repeat_interleave(4))
    x = torch.randn(2, 100, 16, dtype=torch.float64)
    assert torch.allclose(one(x), many(x))


def test_the_state_does_not_grow() -> None:
    mixer = layer().eval()
    state = mixer.init_state(3)
    sizes = [state.nbytes()]
    for _ in range(3):
        _, state = mixer.extend(torch.randn(3, 11, 16, dtype=torch.float64), state)
        sizes.append(state.nbytes())
    assert len(set(sizes)) == 1 and sizes[0] == 3 * (2 * 4 * 8 * 8 + 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "chanel"}, "did you mean 'channel'"),
        ({"key_dim": 0}, "key_dim must be an integer of at least 1"),
        ({"key_dim": 3, "rotary": True}, "must be even for rotary"),
        ({"decay_temperature": 0.0}, "decay_temperature must be greater than 0"),
        ({"decay_rank": 0}, "decay_rank must be"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**options)


def test_it_is_causal_only() -> None:
    with pytest.raises(ValueError, match="only in causal form"):
        sq.GatedLinearConfig(dim=16, depth=1, heads=2, causal=False)


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_mixed_may_be_beyond_float16(autocast: bool) -> None:
    torch.manual_seed(0)
    mixer, x = sq.attention.GatedLinearAttention(64, heads=2), 100 * torch.randn(1, 256, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=autocast):
        exact = mixer(x) if autocast else mixer.half()(x.half())
    assert exact.isfinite().all()


def test_fixed_decays_are_not_rounded() -> None:
    """A decay of 1 - 2^-12 in bfloat16 is 1."""
    layer = sq.attention.GatedLinearAttention(16, heads=8, decay="fixed")
    exact = layer.log_decay.clone()
    assert layer.bfloat16().log_decay.dtype is torch.float32 and torch.equal(layer.log_decay, exact)
    assert layer.query.weight.dtype is torch.bfloat16
    assert layer.double().log_decay.dtype is torch.float64
