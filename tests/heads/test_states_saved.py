"""Streaming states in files: plain `torch.load`, which runs nothing that a file says, takes them back in another process."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.laws.matrix import SMALL, configs, tokens

import subquadratic as sq
from subquadratic.core.state import State


def of(model: Any, rows: int = 2) -> State:
    return model.extend(tokens(rows, 5), model.init_state(rows))[1]


def classes(base: type) -> list[type]:
    return [found for child in base.__subclasses__() for found in (child, *classes(child))]


@pytest.mark.parametrize("head", ["language_model", "classifier"])
@pytest.mark.parametrize("config", configs(causal=True))
def test_a_state_comes_back(config: sq.BackboneConfig, head: str) -> None:
    model: Any = (
        sq.LanguageModel(config, vocab_size=13, max_length=40)
        if head == "language_model"
        else sq.SequenceClassifier(config, vocab_size=13, num_classes=3, max_length=40)
    )
    state, file = of(model.eval()), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file)
    assert type(loaded) is type(state)
    assert all(torch.equal(a, b) for a, b in zip(loaded.tensors(), state.tensors(), strict=True))
    more = tokens(2, 3, seed=4)
    assert torch.equal(model.extend(more, loaded)[0], model.extend(more, state)[0])


def test_every_class_of_states_is_known_to_torch() -> None:
    import subquadratic.compat.continuation
    import subquadratic.compat.performer_pytorch  # noqa: F401

    known = torch.serialization.get_safe_globals()
    ours = [found for found in classes(State) if found.__module__.startswith("subquadratic.")]
    assert len(ours) > 15
    assert [found for found in ours if found not in known] == []


def test_another_process_loads_it_once_it_has_a_model(tmp_path: Path) -> None:
    model = sq.LanguageModel(sq.PerformerConfig(**SMALL, local_heads=1, token_shift=True), vocab_size=13).eval()
    torch.save({"state": of(model), "text": "so far"}, tmp_path / "state.pt")
    code = f"import torch, subquadratic as sq; sq.LanguageModel; print(torch.load({str(tmp_path / 'state.pt')!r})['state'].nbytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == of(model).nbytes()
