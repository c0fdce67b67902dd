"""The twin of feedback-transformer-pytorch against the published package, weights and calls alike."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from subquadratic.compat.feedback_transformer_pytorch import FeedbackTransformer, Memory

published = pytest.importorskip("feedback_transformer_pytorch")

SMALL = {"num_tokens": 17, "dim": 16, "depth": 2, "mem_len": 6, "seq_len": 2, "heads": 2, "dim_head": 4}


def pair(**options: object) -> tuple[nn.Module, FeedbackTransformer]:
    reference = published.FeedbackTransformer(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    twin = FeedbackTransformer(**{**SMALL, **options})
    twin.load_state_dict(reference.state_dict(), strict=True)
    return reference.double(), twin.double()


def relative(reference: Tensor, value: Tensor) -> float:
    return ((reference - value).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt().clamp_min(1e-12)).item()


def windows(model: nn.Module, tokens: Tensor, sizes: list[int]) -> tuple[Tensor, Memory]:
    memory, logits = None, []
    for piece in tokens.split(sizes, dim=1):
        y, memory = model(piece, memory=memory, return_memory=True)
        logits.append(y)
    return torch.cat(logits, dim=1), memory


def compare(reference: nn.Module, twin: FeedbackTransformer, sizes: list[int]) -> None:
    """Logits, memories and the gradient of every parameter, the published ones loaded into our names as if they were weights."""
    tokens = torch.randint(0, 17, (2, sum(sizes)))
    results = []
    for model in (reference, twin):
        torch.manual_seed(3)
        logits, memory = windows(model, tokens, sizes)
        (logits.square().mean() + memory.keys.sum() + memory.values.square().sum()).backward()
        results.append((logits, *memory))
    for expected, found in zip(*results, strict=True):
        assert expected.shape == found.shape and relative(expected, found) < 1e-9
    gradients = {}
    by_identity = {id(p): p for p in reference.parameters()}
    for name, parameter in reference.named_parameters(remove_duplicate=False):
        grad = by_identity[id(parameter)].grad
        gradients[name] = torch.zeros_like(parameter) if grad is None else grad
    holder = copy.deepcopy(twin)
    holder.load_state_dict(gradients)
    top = max(gradient.abs().max() for gradient in gradients.values())
    for (name, expected), found in zip(holder.named_parameters(), twin.parameters(), strict=True):
        assert found.grad is not None, name
        # With one token at a time the published bias is the same for all keys: its gradient is zero but for rounding.
        rounding = expected.abs().max() < 1e-12 * top
        assert relative(expected, found.grad) < 1e-9 or (rounding and found.grad.abs().max() < 1e-12 * top), name


@pytest.mark.parametrize("seq_len", [1, 2, 5])
@pytest.mark.parametrize("keep_last_hidden", [False, True])
@pytest.mark.parametrize("sizes", [[10], [11], [10, 6], [5, 1, 8], [30]])
def test_the_numbers_are_the_published_ones(seq_len: int, keep_last_hidden: bool, sizes: list[int]) -> None:
    compare(*pair(seq_len=seq_len, keep_last_hidden=keep_last_hidden), sizes)


@pytest.mark.parametrize("seq_len", [1, 5])
def test_long_segments_reach_the_far_buckets(seq_len: int) -> None:
    compare(*pair(seq_len=40 * seq_len, mem_len=64), [170, 40])


def test_dropout_draws_the_same_numbers() -> None:
    compare(*pair(attn_dropout=0.3, ff_dropout=0.2), [9, 4])


def test_more_memories_than_mem_len_are_all_read_once() -> None:
    reference, twin = pair()
    tokens = torch.randint(0, 17, (2, 7))
    memory = Memory(*torch.randn(2, 2, 9, 8, dtype=torch.float64))
    for expected, found in zip(reference(tokens, memory)[None], twin(tokens, memory)[None], strict=True):
        assert relative(expected, found) < 1e-5
    assert twin(tokens[:, :0], memory, return_memory=True)[1].keys.shape == (2, 6, 8)


def test_a_detached_memory_cuts_the_gradient() -> None:
    _, twin = pair()
    tokens = torch.randint(0, 17, (1, 6))
    _, memory = twin(tokens, return_memory=True)
    for _ in range(2):
        y, memory = twin(tokens, memory=Memory(*(part.detach() for part in memory)), return_memory=True)
        y.sum().backward()


def test_one_token_without_memory_runs() -> None:
    _, twin = pair(seq_len=2)
    assert twin(torch.tensor([[3]])).isfinite().all()


def test_state_dicts_load_strictly() -> None:
    reference, twin = pair()
    again = FeedbackTransformer(**SMALL).double()
    again.load_state_dict(twin.state_dict())
    tokens = torch.randint(0, 17, (1, 5))
    assert torch.equal(again(tokens), twin(tokens))
    one_token = FeedbackTransformer(**{**SMALL, "seq_len": 1})
    one_token.load_state_dict(reference.state_dict())  # seq_len is how the model runs, not what it is
    without = {key: value for key, value in reference.state_dict().items() if key != "layers.1.0.fn.norm.weight"}
    with pytest.raises(RuntimeError, match=r"Missing.*layers\.1\.0\.fn\.norm\.weight"):
        again.load_state_dict(without)
    with pytest.raises(RuntimeError, match=r"Unexpected.*layers\.2\.0"):
        again.load_state_dict({**reference.state_dict(), "layers.2.0.fn.other": torch.zeros(1)})
    different = {**reference.state_dict(), "layers.1.0.fn.fn.to_kv.weight": torch.zeros(16, 16)}
    with pytest.raises(RuntimeError, match="differs from another copy"):
        again.load_state_dict(different)
    assert torch.equal(pickle.loads(pickle.dumps(one_token))(tokens), one_token(tokens))


def test_attributes_and_refusals() -> None:
    twin = FeedbackTransformer(**SMALL)
    assert (twin.seq_len, twin.mem_len) == (2, 6)
    with pytest.raises(ValueError, match="mem_len"):
        FeedbackTransformer(**{**SMALL, "mem_len": 0})
    with pytest.raises(ValueError, match="memory must be"):
        twin(torch.zeros(1, 2, dtype=torch.int64), Memory(torch.zeros(1, 3, 5), torch.zeros(1, 3, 5)))
    with pytest.raises(TypeError):
        FeedbackTransformer(**SMALL, ff_mult=2)
