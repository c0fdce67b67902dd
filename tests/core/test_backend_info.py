"""What the package says of what computes here."""

import pytest
import torch

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library


def test_it_says_what_computes() -> None:
    found = sq.backend_info()
    assert (found.native is None) == (found.why_not_native is not None) == (library.why_not() is not None)
    assert str(found).startswith(f"PyTorch {found.torch}, {torch.get_num_threads()} thread")
    if found.native is not None:
        assert f"C kernels for {found.native}" in str(found)
        assert found.native in str(found.made_by)


def test_it_says_why_nothing_faster_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "why_not", lambda: "they were left out")
    found = sq.backend_info()
    assert found.native is None and found.made_by is None and found.better is None
    assert str(found).endswith("; no C kernels: they were left out")


def test_it_says_what_was_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("why_not", None), ("variant", "x86-64-v3"), ("better_variant", "x86-64-v4"), ("made_by", "GCC")):
        monkeypatch.setattr(library, name, lambda value=value: value)
    said = "C kernels for x86-64-v3; this processor could run those for x86-64-v4, which were not installed"
    assert str(sq.backend_info()).endswith(said)


def test_a_backend_that_was_chosen_is_named() -> None:
    with use_backend("torch"):
        assert "the backend chosen is 'torch'" in str(sq.backend_info())
