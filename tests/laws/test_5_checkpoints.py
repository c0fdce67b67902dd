"""Law 5: state dicts are strict, without duplicates, with the same keys whatever the run-time flags; modules pickle and copy."""

import copy
import pickle
from pathlib import Path

import pytest
import torch

import subquadratic as sq

from .matrix import configs, heads, tokens


def has_tables(config: sq.BackboneConfig) -> bool:
    """Whether there are parameters for every position."""
    return config.positions in ("learned", "axial") or config.length_limit is not None


RUNTIME = [{"reversible": True}, {"checkpointing": True}, {"dropout": 0.1}, {"attention_dropout": 0.1}, {"ff_chunks": 2}]


@pytest.mark.parametrize("head", ["backbone", "language_model", "classifier"])
@pytest.mark.parametrize("config", configs())
def test_strict_unique_picklable(config: sq.BackboneConfig, head: str) -> None:
    model = heads(config)[head]()
    keys = model.state_dict(keep_vars=True)
    assert len({tensor.data_ptr() for tensor in keys.values() if tensor.numel()}) == len([t for t in keys.values() if t.numel()])
    other = heads(config)[head]()
    other.load_state_dict(model.state_dict(), strict=True)
    for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(copied.state_dict()) == list(keys)
        assert all(torch.equal(a, b) for a, b in zip(copied.state_dict().values(), keys.values(), strict=True))


@pytest.mark.parametrize("config", configs())
def test_run_time_flags_rename_nothing(config: sq.BackboneConfig) -> None:
    keys = list(config.build().state_dict())
    for flags in RUNTIME:
        try:
            changed = config.replace(**{"reversible": False, "checkpointing": False, **flags})
        except ValueError:
            assert "reversible" in flags  # a model that cannot be reversible says so
            continue
        assert list(changed.build().state_dict()) == keys, flags


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("config", configs())
def test_saved_and_loaded_models_agree_to_the_bit(config: sq.BackboneConfig, tied: bool, tmp_path: Path) -> None:
    model, x = sq.LanguageModel(config, vocab_size=13, max_length=40, tie_embeddings=tied).eval(), tokens(2, 9)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "modeling_subquadratic.py"]
    loaded = sq.LanguageModel.from_pretrained(tmp_path)
    assert loaded.config == config and torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("config", [param for param in configs() if not has_tables(param.values[0])])
def test_longer_where_the_maths_allows(config: sq.BackboneConfig) -> None:
    short, long = (sq.LanguageModel(config, vocab_size=13, max_length=length).eval() for length in (12, 40))
    long.load_state_dict(short.state_dict(), strict=True)
    x = tokens(1, 12)
    assert torch.equal(short(x), long(x))
    assert long(tokens(1, 40)).isfinite().all()


@pytest.mark.parametrize("config", configs())
def test_configurations_survive_json(config: sq.BackboneConfig) -> None:
    import json

    assert sq.BackboneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
