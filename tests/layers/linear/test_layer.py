"""Linear layers of other models, computed as ours for a while."""

import torch
from torch import nn

from subquadratic.layers.linear import layer as layers
from subquadratic.layers.linear.layer import Linear, computed_here


class Special(nn.Linear):
    pass


def test_plain_layers_of_a_model_compute_as_ours_while_it_is_asked_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Special(5, 3), Linear(3, 2))
    x, heard = torch.randn(6, 4), []
    model[0].register_forward_hook(lambda *_: heard.append(1))
    before, weights = model(x), dict(model.named_parameters())
    with computed_here(model):
        assert [type(layer) for layer in model] == [Linear, nn.ReLU, Special, Linear]
        torch.testing.assert_close(model(x), before)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, Special, Linear]
    assert len(heard) == 2 and all(weights[name] is weight for name, weight in model.named_parameters())


def test_they_are_themselves_again_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 5))
    try:
        with computed_here(model):
            assert layers.is_untouched(model[0], Linear)
            raise KeyError
    except KeyError:
        assert type(model[0]) is nn.Linear
