"""Replayed functions: what is copied, what is captured when, what is refused. A function that runs again stands for a graph."""

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.replay.again import Again
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from subquadratic.attention.feedback import op as recurrence
from subquadratic.attention.feedback.formula import feedback_recurrence_reference
from subquadratic.attention.feedback.weights import LayerWeights, MemoryWeights
from subquadratic.core import backend
from subquadratic.core.state import State, state
from subquadratic.replay import cuda_graph
from subquadratic.replay.cuda_capture import CaptureError, NoWaiting
from subquadratic.replay.cuda_graph import Replayed
from subquadratic.replay.structure import flatten


class Looking(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@state
class Pair(State):
    sum: Tensor
    context: Tensor | None
    rest: tuple[Tensor, ...]


def pair_step(x: Tensor, before: Pair, gain: float, weight: Tensor) -> tuple[Tensor, Pair, None]:
    total = before.sum * gain + x @ weight
    return total.exp(), Pair(total, before.context, (total[:, :1], before.rest[1] + 1)), None


def pair(batch: int = 2) -> Pair:
    return Pair(torch.randn(batch, 3), torch.randn(batch, 5), (torch.randn(batch, 1), torch.arange(batch)))


def test_a_signature_is_captured_at_its_second_call_and_replayed_from_then_on() -> None:
    recorder = Again()
    replayed, weight, before = Replayed(pair_step, recorder=recorder), torch.randn(4, 3), pair()
    kept: list[tuple[Any, list[Tensor]]] = []
    expected = before
    for step in range(5):
        x = torch.randn(2, 4)
        y, before, nothing = replayed(x, before, 0.5, fixed=(weight,))
        right, expected, _ = pair_step(x, expected, 0.5, weight)
        assert nothing is None
        assert torch.equal(y, right)
        assert flatten(before)[1] == flatten(expected)[1]
        assert all(torch.equal(a, b) for a, b in zip(flatten(before)[0], flatten(expected)[0], strict=True))
        assert (recorder.captured, recorder.replayed) == (int(step >= 1), step)
        kept.append(((y, before), [tensor.clone() for tensor in flatten((y, before))[0]]))
    for found, copies in kept:  # no later call has written over what an earlier one gave
        assert all(torch.equal(a, b) for a, b in zip(flatten(found)[0], copies, strict=True))


def test_what_is_handed_on_is_the_caller_s_own() -> None:
    replayed, weight, before = Replayed(pair_step, recorder=Again()), torch.randn(4, 3), pair()
    for _ in range(3):
        after = replayed(torch.randn(2, 4), before, 0.5, fixed=(weight,))[1]
        assert after.context is before.context


def test_inputs_are_not_written_to_and_may_lie_anyhow() -> None:
    replayed = Replayed(lambda x: x.mul(2).add_(1), recorder=Again())
    wide = torch.randn(3, 8)
    for x in (torch.randn(3, 4), torch.randn(4, 3).T, wide[:, ::2], wide[:1, :4].expand(3, 4)):
        copy = x.clone()
        assert torch.equal(replayed(x), copy * 2 + 1)
        assert torch.equal(x, copy)
    assert replayed._recorder.captured == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: ((x[:1], y[:1]), {}),
        lambda x, y: ((x.double(), y.double()), {}),
        lambda x, y: ((x, (y,)), {}),
        lambda x, y: ((x, y), {"key": 1}),
        lambda x, y: ((x, y), {"fixed": (torch.ones(3),)}),
    ],
    ids=["batch", "dtype", "structure", "key", "fixed"],
)
def test_another_signature_is_another_function(change: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    def total(x: Tensor, y: Any, more: Tensor | None = None) -> Tensor:
        y = y[0] if isinstance(y, tuple) else y
        return x + y if more is None else x + y + more

    recorder = Again()
    replayed, x, y = Replayed(total, recorder=recorder), torch.randn(2, 3), torch.randn(2, 3)
    for _ in range(3):
        assert torch.equal(replayed(x, y), x + y)
    arguments, options = change(x, y)
    expected = total(*arguments, *options.get("fixed", ()))
    replays = recorder.replayed
    assert torch.equal(replayed(*arguments, **options), expected)
    assert (recorder.captured, recorder.replayed) == (1, replays)
    assert torch.equal(replayed(*arguments, **options), expected)
    assert recorder.captured == 2


def test_true_and_one_are_not_the_same_argument() -> None:
    replayed = Replayed(lambda x, flag: x + 1 if flag is True else x - 1, recorder=Again())
    x = torch.zeros(2)
    for _ in range(3):
        assert replayed(x, True).tolist() == [1, 1]
        assert replayed(x, 1).tolist() == [-1, -1]


def test_weights_are_read_where_they_lie() -> None:
    recorder = Again()
    replayed, weight, x = Replayed(lambda x, w: x @ w, recorder=recorder), torch.randn(3, 3), torch.randn(2, 3)
    for _ in range(3):
        replayed(x, fixed=(weight,))
    weight.mul_(2)  # an optimiser's step
    assert torch.equal(replayed(x, fixed=(weight,)), x @ weight)
    assert recorder.captured == 1
    other = weight.clone() + 1
    for _ in range(2):
        assert torch.equal(replayed(x, fixed=(other,)), x @ other)
        assert torch.equal(replayed(x, fixed=(other.T,)), x @ other.T)
    assert recorder.captured == 3


def test_no_more_graphs_than_allowed_and_no_more_notes() -> None:
    recorder = Again()
    replayed = Replayed(lambda x: x + 1, recorder=recorder, graphs=2)
    for length in (1, 2, 3):
        for _ in range(2):
            replayed(torch.zeros(length))
    assert recorder.captured == 3
    assert len(replayed._graphs) == 2
    replayed(torch.zeros(2))  # used again, so that 3 goes first
    for _ in range(2):
        replayed(torch.zeros(4))
    count = recorder.replayed
    replayed(torch.zeros(2))
    assert (recorder.captured, recorder.replayed) == (4, count + 1)
    for length in range(5, 5 + 2 * cuda_graph.NOTED):
        replayed(torch.zeros(length))
    assert len(replayed._noted) <= cuda_graph.NOTED


def test_a_graph_that_goes_leaves_nothing() -> None:
    replayed = Replayed(lambda x: x + 1, recorder=Again(), graphs=1)
    for _ in range(2):
        replayed(torch.zeros(2))
    gone = weakref.ref(next(iter(replayed._graphs.values())))
    for _ in range(2):
        replayed(torch.zeros(3))
    gc.collect()
    assert gone() is None


def test_what_cannot_be_captured_is_called_with_one_warning() -> None:
    replayed = Replayed(lambda x: x + 1, recorder=Again(fails=True))
    replayed(torch.zeros(2))
    with pytest.warns(UserWarning, match=r"no CUDA graph, .* it asks the device for values") as found:
        assert replayed(torch.zeros(2)).tolist() == [1, 1]
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert replayed(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if bool((x > 0).any()) else -x,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.repeat_interleave(torch.tensor([1, 2])),
        lambda x: x if torch.equal(x, x) else -x,
    ],
    ids=["item", "bool", "mask", "nonzero", "repeats", "equal"],
)
def test_waiting_for_the_device_is_refused_before_it_is_done(function: Callable[[Tensor], Tensor]) -> None:
    replayed, x = Replayed(function, recorder=Again()), torch.tensor([1.0, 2.0])
    expected = replayed(x)
    with pytest.warns(UserWarning, match="cannot be captured"):
        assert torch.equal(replayed(x), expected)


def test_waiting_between_devices_is_refused() -> None:
    with pytest.raises(CaptureError, match="_to_copy"), NoWaiting():
        torch.zeros(2).to("meta")
    with NoWaiting():
        x = torch.arange(4.0).view(2, 2)
        assert x[torch.tensor([1]), torch.tensor([0])].to(torch.float64).tolist() == [2.0]
        assert x.repeat_interleave(2, dim=0).shape == (4, 2)


def test_an_error_is_the_function_s_own_and_changes_nothing() -> None:
    def positive(x: Tensor) -> Tensor:
        if broken:
            raise ValueError("broken")
        return x + 1

    recorder, broken = Again(), False
    replayed = Replayed(positive, recorder=recorder)
    replayed(torch.zeros(2))
    broken = True
    with pytest.raises(ValueError, match="broken"):
        replayed(torch.zeros(2))
    broken = False
    assert replayed(torch.zeros(2)).tolist() == [1, 1]
    assert recorder.captured == 1
    assert not cuda_graph._busy.recording


def test_only_what_may_come_again_and_is_small_is_captured() -> None:
    recorder = Again()
    grows = Replayed(lambda x: torch.cat((x, x)), recorder=recorder, repeats=lambda given, result: given[0].shape == result.shape)
    large = Replayed(lambda x: x + 1, recorder=recorder, limit=2 * 4 * 7)
    for _ in range(4):
        grows(torch.zeros(2))
        large(torch.zeros(8))
    assert recorder.captured == 0
    assert not grows._noted
    for _ in range(2):
        large(torch.zeros(7))
    assert recorder.captured == 1


def test_nothing_is_captured_where_it_must_not_be() -> None:
    recorder = Again()
    replayed = Replayed(lambda x: x * 2, recorder=recorder)
    x = torch.ones(2, requires_grad=True)

    def thrice() -> None:
        for _ in range(3):
            replayed(x)

    with torch.enable_grad():
        replayed(x)
        replayed(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 2.0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        thrice()
    with NoWaiting():
        thrice()
    with Looking():
        thrice()
    torch.func.vmap(lambda _: replayed(x))(torch.zeros(3))
    recorder.somewhere = False
    thrice()
    assert recorder.captured == 0
    assert not replayed._noted
    recorder.somewhere = True
    with torch.device("cpu"):
        thrice()
    assert recorder.captured == 1
    plain = Replayed(lambda x: x * 2)
    for _ in range(3):
        plain(torch.ones(2))
    assert not plain._noted and not plain.applies(torch.ones(2))


def test_a_graph_within_a_graph_is_part_of_it() -> None:
    outer_recorder, inner_recorder = Again(), Again()
    inner = Replayed(lambda x: x + 1, recorder=inner_recorder)
    outer = Replayed(lambda x: inner(x) * 2, recorder=outer_recorder)
    for _ in range(4):
        assert outer(torch.ones(2)).tolist() == [4, 4]
    assert (outer_recorder.captured, inner_recorder.captured) == (1, 0)


def test_settings_are_part_of_the_signature() -> None:
    recorder = Again()
    replayed = Replayed(lambda x: x + 1, recorder=recorder)
    for _ in range(2):
        replayed(torch.zeros(2))
    with backend.use_backend("torch"):
        replayed(torch.zeros(2))
    with torch.inference_mode():
        for _ in range(3):
            made = replayed(torch.zeros(2))
    assert made.is_inference()
    assert (recorder.captured, recorder.replayed) == (2, 3)
    assert not replayed(torch.zeros(2)).is_inference()


def draw(depth: int, groups: int, dim: int = 6, wide: int = 6, inner: int = 5) -> tuple[MemoryWeights, list[LayerWeights]]:
    def new(*shape: int) -> Tensor:
        return nn.Parameter(torch.randn(shape) * 0.5)

    layers = [
        LayerWeights(
            new(dim), new(dim), new(wide, dim), new(dim, wide), new(dim), None,
            new(dim), new(dim), new(2 * inner, dim), new(2 * inner), new(dim, inner), new(dim), None,
        )
        for _ in range(depth)
    ]  # fmt: skip
    return MemoryWeights(new(depth + 1), new(dim), new(dim), new(groups * 2 * wide, dim), new(2, 3)), layers


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> tuple[Again, Again]:
    forward, backward = Again(), Again()
    monkeypatch.setattr(recurrence, "_forward_loop", Replayed(recurrence._run_all, recorder=forward))
    monkeypatch.setattr(recurrence, "_backward_loop", Replayed(recurrence._run_back, recorder=backward))
    return forward, backward


@pytest.mark.parametrize("stateful", [False, True])
def test_a_feedback_recurrence_trains_by_replay(loops: tuple[Again, Again], stateful: bool) -> None:
    memory, layers = draw(2, 2)
    parameters = [tensor for tensor in (*memory, *(tensor for layer in layers for tensor in layer)) if tensor is not None]

    def inputs() -> tuple[Tensor, Tensor | None, Tensor | None]:
        before = torch.randn(2, 3, 2, 2, 2, 3, requires_grad=True) if stateful else None
        return torch.randn(2, 5, 6, requires_grad=True), before, torch.tensor([1, 3]) if stateful else None

    def loss(x: Tensor, before: Tensor | None, empty: Tensor | None, function: Any) -> Tensor:
        made = memory._replace(mixture=memory.mixture.softmax(0), bias=memory.bias * 2)  # new tensors at each call, as a model's
        y, line = function(x, before, empty, made, layers, heads=2, window=3)
        return y.square().sum() + (line.sin().sum() if stateful else 0.0)  # without a state the last memory is not made

    with torch.enable_grad():
        for _ in range(4):
            first, second = inputs(), inputs()
            leaves = [tensor for tensor in (*first[:2], *second[:2]) if tensor is not None]
            # Two forwards before either backward: the first one's trace must outlive the second.
            found = [loss(*given, recurrence.feedback_recurrence) for given in (first, second)]
            gradients = torch.autograd.grad(found[0] - 2 * found[1], [*leaves, *parameters])
            right = [loss(*given, feedback_recurrence_reference) for given in (first, second)]
            expected = torch.autograd.grad(right[0] - 2 * right[1], [*leaves, *parameters])
            torch.testing.assert_close(found, right)
            for mine, theirs in zip(gradients, expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.sub_(0.01)
    assert [recorder.captured for recorder in loops] == [1, 1]
    assert [recorder.replayed for recorder in loops] == [7, 7]


def test_a_feedback_recurrence_reads_by_replay(loops: tuple[Again, Again]) -> None:
    memory, layers = draw(2, 1)
    for length in (4, 4, 4, 2, 4):
        x, before, empty = torch.randn(2, length, 6), torch.randn(2, 3, 1, 2, 2, 3), torch.tensor([0, 2])
        found = recurrence.feedback_recurrence(x, before, empty, memory, layers, heads=2, window=3)
        expected = feedback_recurrence_reference(x, before, empty, memory, layers, heads=2, window=3)
        torch.testing.assert_close(found, expected)
    assert (loops[0].captured, loops[0].replayed, loops[1].captured) == (1, 3, 0)


def test_a_very_long_recurrence_is_no_graph(loops: tuple[Again, Again], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "GRAPH_STEPS", 7)
    memory, layers = draw(2, 1)
    x = torch.randn(1, 4, 6, requires_grad=True)
    with torch.enable_grad():
        for _ in range(3):
            recurrence.feedback_recurrence(x, None, None, memory, layers, heads=2, window=3)[0].sum().backward()
    assert [recorder.captured for recorder in loops] == [0, 0]


@pytest.mark.parametrize("detach_every", [None, 2])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_feedback_recurrence_never_waits_for_the_device(
    stateful: bool, detach_every: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # which does not know the device
    memory, layers = draw(2, 2)
    memory = MemoryWeights(*(nn.Parameter(tensor.to("meta")) for tensor in memory))
    layers = [LayerWeights(*(None if tensor is None else nn.Parameter(tensor.to("meta")) for tensor in layer)) for layer in layers]
    x = torch.randn(2, 5, 6, device="meta", requires_grad=True)
    before = torch.randn(2, 3, 2, 2, 2, 3, device="meta", requires_grad=True) if stateful else None
    empty = torch.zeros(2, dtype=torch.int64, device="meta") if stateful else None
    with torch.enable_grad(), NoWaiting():
        y, line = recurrence.feedback_recurrence(x, before, empty, memory, layers, heads=2, window=3, detach_every=detach_every)
        (y.sum() + line.sum()).backward()
    assert x.grad is not None and memory.key_value.grad is not None


on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class TestOnAGpu:
    pytestmark = on_a_gpu

    def test_replays_equal_calls(self) -> None:
        replayed, weight = Replayed(pair_step), torch.randn(4, 3, device="cuda")
        for batch in (2, 5, 2):
            before = expected = pair(batch).to("cuda")
            for _ in range(5):
                x = torch.randn(batch, 4, device="cuda")
                y, before, _ = replayed(x, before, 0.5, fixed=(weight,))
                right, expected, _ = pair_step(x, expected, 0.5, weight)
                torch.testing.assert_close(y, right)
                torch.testing.assert_close(flatten(before)[0], flatten(expected)[0])
            weight.mul_(-1)
        assert len(replayed._graphs) == 2

    def test_what_waits_is_called_and_leaves_no_mark(self) -> None:
        replayed, x = Replayed(lambda x: x * x.sum().item()), torch.ones(3, device="cuda")
        stream = torch.cuda.current_stream()
        replayed(x)
        with pytest.warns(UserWarning, match="_local_scalar_dense"):
            assert replayed(x).tolist() == [3, 3, 3]
        assert torch.cuda.current_stream() == stream
        assert torch.rand(3, device="cuda").isfinite().all()  # the generator is not in a capture any more
        fine = Replayed(lambda x: x + 1)
        for _ in range(3):
            assert fine(x).tolist() == [2, 2, 2]
        assert len(fine._graphs) == 1

    def test_every_stream_has_its_own_graph(self) -> None:
        replayed, x = Replayed(lambda x: x.cumsum(0) * 2), torch.ones(1000, device="cuda")
        side = torch.cuda.Stream()
        for stream in (torch.cuda.current_stream(), side):
            side.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                for step in range(4):
                    assert replayed(x * step)[-1].item() == 2000 * step
        assert len(replayed._graphs) == 2

    @pytest.mark.parametrize("stateful", [False, True])
    def test_a_feedback_recurrence_trains(self, stateful: bool) -> None:
        memory, layers = draw(2, 2)
        memory = MemoryWeights(*(nn.Parameter(tensor.cuda()) for tensor in memory))
        layers = [LayerWeights(*(None if tensor is None else nn.Parameter(tensor.cuda()) for tensor in layer)) for layer in layers]
        before = torch.randn(2, 3, 2, 2, 2, 3, device="cuda") if stateful else None
        empty = torch.tensor([1, 3], device="cuda") if stateful else None
        found = []
        captured = len(recurrence._forward_loop._graphs)
        for function in (recurrence.feedback_recurrence, feedback_recurrence_reference):
            torch.manual_seed(0)
            for _ in range(4):
                xs = [torch.randn(2, 5, 6, device="cuda", requires_grad=True) for _ in range(2)]
                with torch.enable_grad():
                    ys = [function(x, before, empty, memory, layers, heads=2, window=3)[0] for x in xs]
                    gradients = torch.autograd.grad(ys[0].square().sum() - ys[1].sum(), [*xs, memory.key_value, layers[1].query])
                found.append([*ys, *gradients])
        assert len(recurrence._forward_loop._graphs) > captured or captured == 2
        for mine, theirs in zip(found[:4], found[4:], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
