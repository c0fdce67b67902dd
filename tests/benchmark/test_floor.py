"""The floor's formulas: against counts by hand, and against PyTorch's counter where it counts the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from subquadratic.attention.softmax import op as softmax_attention
from subquadratic.benchmark.cases import Case, Sizes
from subquadratic.benchmark.floor import Floor, floor_of, work_of
from subquadratic.benchmark.machine import Rates
from subquadratic.benchmark.models import config_of
from subquadratic.heads.language_model import LanguageModel

SIZES = Sizes(dim=16, depth=2, heads=2, vocabulary=11, slots=5, memories=6)
D, L, H, V, R, M = 16, 2, 2, 11, 5, 16  # M = floor(8 ln 8)


def case(name: str, mode: str = "train", length: int = 12, batch: int = 3, **rest: Any) -> Case:
    return Case(name="-", kind="model", mode=mode, sides=(name,), length=length, batch=batch, sizes=SIZES, **rest)


def flops(name: str, **rest: Any) -> float:
    found = case(name, **rest)
    return work_of(name, found, length=found.length).flops


def test_features_are_those_of_the_sizes() -> None:
    assert SIZES.features == M


def test_models_by_hand() -> None:
    T = 36
    ff, head, maps = 2 * T * D * 64 * 2, 2 * T * D * V, 4 * 2 * T * D * D
    assert flops("performer") == L * (maps + 4 * 2 * T * D * M + ff) + head
    assert flops("linformer") == L * (maps + 4 * 2 * T * D * R + ff) + head
    assert flops("transformer") == L * (maps + 2 * 2 * 3 * D * (12 * 13 // 2) + ff) + head
    memories = sum(min(t, 6) for t in range(12))
    gated = 2 * T * D * 128 + 2 * T * 64 * D
    once = 2 * T * D * 2 * D + 2 * T * D * (L + 1)
    assert flops("feedback_transformer") == L * (maps / 2 + 2 * 2 * 3 * D * memories + gated) + once + head


def test_a_perceiver_reads_all_of_it_once() -> None:
    latents, batch = 3, 3
    pairs = sum(9 + i + 1 for i in range(latents))  # nine of the prefix, then those up to its own
    inside = sum(i + 1 for i in range(latents))
    ff = 2 * 2 * batch * latents * D * 64
    cross = 2 * batch * D * D * (2 * 12 + 2 * latents) + 2 * 2 * batch * D * pairs + ff
    layer = 4 * 2 * batch * latents * D * D + 2 * 2 * batch * D * inside + ff
    assert flops("perceiver_ar", latents=3) == cross + L * layer + 2 * batch * latents * D * V


@pytest.fixture
def explicit_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention of two matmuls: PyTorch's counter knows nothing of the kernel for CPUs."""

    def attend(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v

    monkeypatch.setattr(softmax_attention.F, "scaled_dot_product_attention", attend)
    yield


@pytest.mark.parametrize("name", ["linformer-bidirectional", "transformer-bidirectional", "fastformer-bidirectional"])
def test_models_as_pytorch_counts(name: str, explicit_attention: None) -> None:
    found = case(name, mode="forward", length=20)
    model = LanguageModel(config_of(name, found), vocab_size=V).double()  # for which there are no kernels that the counter does not know
    tokens = torch.zeros(3, 20, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    assert work_of(name, found, length=20).flops == counter.get_total_flops()


def test_gradients_that_nobody_needs_do_not_count() -> None:
    work = work_of("performer", case("performer"), length=12)
    assert work.constant == L * 2 * 2 * 36 * D * M  # the two feature maps
    assert work.training == 3 * work.flops - work.constant
    assert work_of("linformer", case("linformer"), length=12).constant == 0


def test_the_larger_of_the_two_counts() -> None:
    rates = Rates(matmul=100.0, linear=50.0, copy=10.0)
    assert Floor(flops=1000.0, bytes=50.0).seconds(rates) == 10.0
    assert Floor(flops=1000.0, bytes=200.0).seconds(rates) == 20.0
    assert Rates(matmul=1.0, linear=3.0, copy=1.0).flops == 3.0 and Rates(matmul=1.0, linear=None, copy=1.0).flops == 1.0


def test_a_decoded_token_moves_weights_and_state() -> None:
    found = floor_of("performer", case("performer", mode="decode", batch=1), parameter_bytes=1000, state_bytes=70, tokens=4)
    assert found is not None and found.bytes == 4 * (1000 + 2 * 70)
    assert found.flops == 4 * work_of("performer", case("performer", batch=1), length=1).flops
    grown = floor_of("transformer", case("transformer", mode="decode", batch=1, length=100), parameter_bytes=1000, state_bytes=70)
    assert grown is not None and grown.bytes == 1070  # keys and values are read, and one more written
    assert floor_of("perceiver_ar", case("perceiver_ar", mode="decode"), parameter_bytes=1) is None


def test_operations_and_layers_have_floors_too() -> None:
    op = Case(name="-", kind="op", mode="train", sides=("favor",), length=12, batch=3, sizes=SIZES)
    found = floor_of("favor", op, parameter_bytes=0)
    one = 2 * 36 * D * M
    assert found is not None and found.flops == 3 * 4 * one - 2 * one and found.bytes == 11 * 4 * 36 * D
    layer = Case(name="-", kind="layer", mode="forward", sides=("softmax-bidirectional",), length=12, batch=3, sizes=SIZES)
    assert work_of("softmax-bidirectional", layer, length=12).flops == 8 * 36 * D * D + 4 * 3 * D * 144
    window = Case(name="-", kind="op", mode="forward", sides=("window-attention",), length=600, sizes=SIZES)
    assert work_of("window-attention", window, length=600).flops == 4 * D * sum(i + 1 - max(0, (i // 256 - 1) * 256) for i in range(600))
