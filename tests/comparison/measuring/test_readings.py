"""What one process tells of its models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subquadratic as sq
from subquadratic.comparison.measuring import readings
from subquadratic.comparison.measuring.cached import further, read
from subquadratic.comparison.measuring.readings import probe, time_together
from subquadratic.comparison.measuring.subject import build_subject

from ..architectures import NAMES, architecture

SIZES: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 1}
COMMON: dict[str, Any] = {"length": 40, "vocab_size": 11, "device": "cpu", "threads": None}
OURS = {"source": "ours", "config": sq.FastformerConfig(**SIZES).to_dict()}
BOTH_WAYS = {"source": "ours", "config": sq.FastformerConfig(**SIZES, causal=False).to_dict()}
FILE = {"source": "file", "path": "net.py", "function": "build"}


class Plain(nn.Module):
    """A causal model without a state."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(causal=True)
        self.map = nn.Embedding(11, 11)
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append((tokens.shape[1], self.training, torch.is_grad_enabled()))
        return self.map(tokens)

    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Plain:
    model, build = Plain(), readings.build_subject
    monkeypatch.setattr(readings, "build_subject", lambda spec, **sizes: model if spec == FILE else build(spec, **sizes))
    monkeypatch.setattr(readings, "keep_freed_memory", lambda: None)  # of this process
    return model


def told(task: Any, **request: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    task({**COMMON, **request}, found.append)
    return found


def test_a_model_with_a_state_is_looked_at_from_all_sides() -> None:
    seen = {name: value for message in told(probe, spec=OURS) for name, value in message.items()}
    model = sq.LanguageModel(sq.FastformerConfig(**SIZES), vocab_size=11)
    assert (
        seen["rereads"] is False
        and seen["state_bytes"] == model.extend(torch.zeros(1, 40, dtype=torch.int64), model.init_state(1))[1].nbytes()
    )
    assert all(seen[name] > 0 for name in ("train", "prefill", "token"))


def test_a_model_without_a_state_is_not_asked_for_one(plain: Plain) -> None:
    seen = {name: value for message in told(probe, spec=FILE) for name, value in message.items()}
    assert seen["rereads"] is True and "token" not in seen
    assert plain.seen == [(40, True, True), (40, False, False)], "a training step and a forward pass over as many tokens"


def test_a_bidirectional_model_decodes_nothing() -> None:
    seen = {name: value for message in told(probe, spec=BOTH_WAYS) for name, value in message.items()}
    assert seen["rereads"] is False and "token" not in seen and seen["prefill"] > 0


def test_all_kinds_are_timed_with_those_that_have_them(plain: Plain) -> None:
    found = told(time_together, specs={"ours": OURS, "file": FILE, "both": BOTH_WAYS}, rounds=2, least=2, budget=0.0)
    kinds = {message["kind"]: message["seconds"] for message in found if "kind" in message}
    assert {kind: sorted(seconds) for kind, seconds in kinds.items()} == {
        "train": ["both", "file", "ours"], "prefill": ["both", "file", "ours"], "token": ["ours"],
    }  # fmt: skip
    assert all(len(values) == 2 and min(values) > 0 for seconds in kinds.values() for values in seconds.values())
    assert [message["at"] for message in found if "at" in message][:3] == ["ours", "file", "both"]


def test_a_model_that_raises_is_dropped_and_the_others_go_on(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "loss", lambda tokens: plain(tokens)[0, 0] @ torch.zeros(3))
    first = next(
        message for message in told(time_together, specs={"file": FILE, "ours": OURS}, rounds=1, least=1, budget=0.0) if "kind" in message
    )
    assert sorted(first["seconds"]) == ["ours"] and "RuntimeError" in first["dropped"]["file"]


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_of_transformers_decodes_with_its_cache(name: str, tmp_path: Path) -> None:
    spec = architecture(name, tmp_path)
    seen = {name: value for message in told(probe, spec=spec) for name, value in message.items()}
    assert seen["rereads"] is False and all(seen[kind] > 0 for kind in ("train", "prefill", "token"))
    heads = 2 if name == "llama" else 4
    assert seen["state_bytes"] == 2 * 2 * heads * 8 * 40 * 4, "keys and values, two layers, heads of 8, 40 tokens, float32"
    kinds = {
        message["kind"]: message for message in told(time_together, specs={name: spec}, rounds=2, least=1, budget=9.0) if "kind" in message
    }
    assert set(kinds) == {"train", "prefill", "token"} and not any(message["dropped"] for message in kinds.values())
    assert all(len(message["seconds"][name]) == 2 for message in kinds.values())


def test_a_cache_is_as_before_after_decoding(tmp_path: Path) -> None:
    model = build_subject(architecture("llama", tmp_path), length=40, vocab_size=11).eval()
    tokens = torch.randint(0, 11, (1, 40))
    cache = read(model, tokens)
    size, last = cache.nbytes(), torch.tensor([[3]])
    decode = further(model, last, cache, 3)
    first = decode()
    assert cache.nbytes() == size and torch.equal(decode(), first)
    text = torch.cat((tokens, last), dim=1)
    with torch.no_grad():
        for _ in range(3):  # reading everything again
            text = torch.cat((text, model(text)[:, -1:].argmax(-1)), dim=1)
    assert int(first) == int(text[0, -1])


def test_a_module_of_somebody_reads_everything_again(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef build(vocab_size): return nn.Embedding(vocab_size, vocab_size)\n")
    spec = {"source": "file", "path": str(tmp_path / "net.py"), "function": "build"}
    seen = {name: value for message in told(probe, spec=spec) for name, value in message.items()}
    assert seen["rereads"] is True and seen["train"] > 0 and seen["prefill"] > 0 and "state_bytes" not in seen
