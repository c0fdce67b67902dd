"""In which precision a run computes, by the processor."""

from pathlib import Path
from typing import Any

import pytest
import torch

from subquadratic.training import precision
from subquadratic.training.options import TrainOptions


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def has(*flags: str) -> None:
        monkeypatch.setattr(precision, "processor_flags", lambda: frozenset(flags))

    return has


@pytest.mark.parametrize(
    ("flags", "wanted"), [((), False), (("avx512f",), False), (("avx512_bf16",), True), (("avx512_bf16", "amx_bf16"), False)]
)
def test_auto_goes_by_the_processor(processor: Any, flags: tuple[str, ...], wanted: bool) -> None:
    processor(*flags)
    assert precision.trains_in_bfloat16("auto") is wanted
    assert precision.trains_in_bfloat16("bfloat16") and not precision.trains_in_bfloat16("float32")
    assert ("products in bfloat16" in precision.computes("auto")) is wanted


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_run_computes_in_it_and_says_so(run: Any, tmp_path: Path, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    from subquadratic.heads.language_model import LanguageModel

    loss = LanguageModel.loss

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(torch.is_autocast_enabled("cpu"))
        return loss(self, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "loss", noted)
    result = run(tmp_path / "run", max_steps=2, precision=chosen)
    assert seen == {chosen == "bfloat16"}
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}
    assert ("products in bfloat16" in (tmp_path / "run" / "run.json").read_text()) is (chosen == "bfloat16")


def test_the_default_is_auto() -> None:
    assert TrainOptions().precision == "auto"
