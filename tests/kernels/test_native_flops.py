"""PyTorch's counter of floating-point operations sees the C kernels: as many as of PyTorch's operators in their place."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))

SIZES = dict(dim=64, depth=2, heads=2)
MODELS: dict[str, Callable[[], Any]] = {
    "performer": lambda: sq.PerformerConfig(**SIZES),
    "performer, both ways": lambda: sq.PerformerConfig(**SIZES, causal=False),
    "linformer": lambda: sq.LinformerConfig(**SIZES, max_length=1024, slots=32),
    "linformer, both ways": lambda: sq.LinformerConfig(**SIZES, max_length=1024, slots=32, causal=False),
    "fastformer": lambda: sq.FastformerConfig(**SIZES),
    "fastformer, both ways": lambda: sq.FastformerConfig(**SIZES, causal=False),
    "feedback": lambda: sq.FeedbackTransformerConfig(**SIZES, memory_length=32),
    "perceiver": lambda: sq.PerceiverARConfig(**SIZES, latents=256),
    "transformer": lambda: sq.TransformerConfig(**SIZES),
    "transformer, both ways": lambda: sq.TransformerConfig(**SIZES, causal=False),
}


# PyTorch counts attention on GPUs alone, and no product that is added in place.
def _attention(queries: Any, keys: Any, values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(queries, keys, values)


def _attention_back(gradient: Any, queries: Any, keys: Any, values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, queries, keys, values)


def _added(sum_: Any, first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(first) * second[-1]


MAPPING = {
    torch.ops.aten.baddbmm_: _added,
    torch.ops.aten.addmm_: _added,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
}


def count(config: Any, backend: str, train: bool) -> int:
    torch.manual_seed(0)
    model = sq.LanguageModel(config, vocab_size=64).train(train)
    length = 64 if isinstance(config, sq.FeedbackTransformerConfig) else 1024
    tokens = torch.randint(64, (1, length))
    with use_backend(backend), FlopCounterMode(display=False, custom_mapping=MAPPING) as counter, torch.set_grad_enabled(train):
        y: Tensor = model(tokens)
        if train:
            y.square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_as_many_as_of_pytorch(name: str, train: bool) -> None:
    native, plain = (count(MODELS[name](), backend, train) for backend in ("native", "torch"))
    again = 0.08 if name == "performer" and train else 0.0  # features that the kernel makes again, and PyTorch's operators keep
    assert 0.95 < native / plain < 1.03 + again


def test_the_counter_is_imported_with_nothing_and_knows_the_kernels_whenever_it_comes() -> None:
    ask = "import torch, sys; {}; import torch.utils.flop_counter as c; assert torch.ops.subquadratic.favor_causal in c.flop_registry"
    ours = "import subquadratic.attention.favor.native_causal"
    for before in (f"{ours}; assert 'torch.utils.flop_counter' not in sys.modules", f"import torch.utils.flop_counter; {ours}"):
        subprocess.run([sys.executable, "-c", ask.format(before)], check=True)


FIRST_AND_NEXT = """
import os, torch, subquadratic as sq
from torch.utils.flop_counter import FlopCounterMode
torch.set_num_threads(1)
for kind, more in (("Performer", {}), ("Performer", {"causal": False}), ("Linformer", {"max_length": 512}), ("Transformer", {})):
    if child := os.fork():  # each has its own, in which nothing was called yet
        assert os.waitpid(child, 0)[1] == 0
        continue
    model = sq.LanguageModel(getattr(sq, kind + "Config")(dim=64, depth=1, heads=2, **more), vocab_size=8)
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            model.loss(torch.zeros(1, 512, dtype=torch.int64)).backward()
        print(counter.get_total_flops())
    break
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin where another is")
def test_the_first_call_of_a_process_counts_like_the_next() -> None:
    """A counter takes what is registered when it is made, and hears of no operator that comes later."""
    found = subprocess.run([sys.executable, "-c", FIRST_AND_NEXT], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 8 and found[::2] == found[1::2]
