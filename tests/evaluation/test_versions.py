"""What a result says of the packages that it was made with."""

import importlib.metadata

import pytest
import torch

import subquadratic as sq
from subquadratic.benchmark.machine import facts
from subquadratic.benchmark.results import Run, same_conditions
from subquadratic.evaluation.versions import versions
from subquadratic.training.problems.setup import describe


def test_only_what_is_installed_is_named() -> None:
    found = versions("subquadratic", "numpy", "no-such-package")
    assert found == {"subquadratic": sq.__version__, "numpy": importlib.metadata.version("numpy")}


def test_builds_of_pytorch_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package index's wheels say 2.13.0 in their metadata, whatever they were built for."""
    public = torch.__version__.partition("+")[0]
    of_metadata = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: public if name == "torch" else of_metadata(name))
    runs = []
    for build in ("+cpu", "+cu130"):
        monkeypatch.setattr(torch, "__version__", public + build)
        options = type("Options", (), {"model": "performer"})()
        assert describe(options, 0, {})["versions"]["torch"] == public + build
        runs.append(Run(machine=facts(), settings={}, results=[]))
    assert same_conditions(*runs) == f"torch was {public}+cpu, and is {public}+cu130"
