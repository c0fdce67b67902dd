"""The reversible stack against the same two streams with ordinary autograd."""

import copy

import pytest
import torch
from torch import Tensor, nn

from subquadratic.layers.reversible import _plain, run_reversible


class Toy(nn.Module):
    """A branch that reads a context, drops at random, and may share its weight."""

    def __init__(self, weight: nn.Linear | None = None, drop: float = 0.0):
        super().__init__()
        self.weight = weight or nn.Linear(6, 6)
        self.dropout = nn.Dropout(drop)

    def forward(self, x: Tensor, arguments: dict) -> Tensor:
        if "context" in arguments:
            x = x + arguments["context"].mean(dim=1, keepdim=True)
        return self.dropout(torch.tanh(self.weight(x)))


def gradients(run, branches: nn.ModuleList, x: Tensor, arguments: dict, calls: int = 1) -> list[Tensor | None]:
    for parameter in branches.parameters():
        parameter.grad = None
    torch.manual_seed(5)
    leaves = [x, *(v for v in arguments.values() if isinstance(v, Tensor))]
    for leaf in leaves:
        leaf.grad = None
    outputs = [run(list(branches), x, arguments) for _ in range(calls)]
    sum((y * y).sum() for y in outputs).backward()
    return [None if t.grad is None else t.grad.clone() for t in (*leaves, *branches.parameters())]


def agree(branches: nn.ModuleList, x: Tensor, arguments: dict | None = None, calls: int = 1) -> None:
    arguments = arguments or {}
    found = gradients(run_reversible, branches, x, arguments, calls)
    expected = gradients(_plain, branches, x, arguments, calls)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_gradients(depth: int) -> None:
    agree(nn.ModuleList(Toy() for _ in range(depth)).double(), torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True))


def test_an_input_without_gradient_still_trains_every_parameter() -> None:
    branches = nn.ModuleList(Toy() for _ in range(4)).double()
    run_reversible(list(branches), torch.randn(2, 5, 6, dtype=torch.float64), {}).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in branches.parameters())


def test_frozen_and_shared_parameters() -> None:
    shared = nn.Linear(6, 6)
    branches = nn.ModuleList([Toy(shared), Toy(), Toy(shared), Toy()]).double()
    branches[1].requires_grad_(False)
    agree(branches, torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True))


def test_a_contexts_gradient_is_summed_once() -> None:
    branches = nn.ModuleList(Toy() for _ in range(4)).double()
    context = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    visits = []
    context.register_hook(lambda gradient: visits.append(gradient))
    agree(branches, torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True), {"context": context})
    assert len(visits) == 2  # once for each of the two runs compared


def test_dropout_is_replayed_per_call() -> None:
    branches = nn.ModuleList(Toy(drop=0.4) for _ in range(4)).double()
    agree(branches, torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True), calls=2)


def test_backward_in_eval_mode() -> None:
    agree(nn.ModuleList(Toy(drop=0.4) for _ in range(3)).double().eval(), torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True))


def test_the_random_state_goes_on_as_if_nothing_was_replayed() -> None:
    branches = list(nn.ModuleList(Toy(drop=0.4) for _ in range(3)))
    torch.manual_seed(1)
    y = run_reversible(branches, torch.randn(2, 5, 6, requires_grad=True), {})
    expected = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), expected)


def test_autocast_is_replayed() -> None:
    branches = nn.ModuleList(Toy() for _ in range(4))
    plain = copy.deepcopy(branches)
    x = torch.randn(2, 5, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = run_reversible(list(branches), x, {}), _plain(list(plain), x, {})
    first.sum().backward()  # outside of autocast
    second.sum().backward()
    for a, b in zip(branches.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-2, atol=2e-2)


def test_no_activation_is_kept() -> None:
    branches = nn.ModuleList(Toy() for _ in range(20))
    x = torch.randn(2, 50, 6, requires_grad=True)
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_reversible(list(branches), x, {})
    assert kept <= 3 * x.numel()  # the two streams at the end
