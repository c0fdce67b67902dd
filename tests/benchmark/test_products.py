"""The products of a step are found, counted and called again as they were."""

import math

import pytest
import torch
from benchmarks.products import Noted, flops_of, measure, replay

from subquadratic.benchmark.cases import Sizes, registry
from subquadratic.benchmark.floor import work_of
from subquadratic.benchmark.models import build_model
from subquadratic.benchmark.work import Setting

SIZES = Sizes(dim=64, depth=1, heads=2, slots=16, memories=16)
CASES = registry(sizes=SIZES, lengths=(48,))
SUBJECTS = ("performer", "performer-bidirectional", "linformer-bidirectional", "fastformer-bidirectional", "feedback_transformer")


def counted(noted: Noted) -> float:
    return sum(count * flops_of(signature) for signature, count in noted.calls.items())


def test_operations_of_each_kind_of_product() -> None:
    left, right, batch = torch.ones(3, 4), torch.ones(4, 5), torch.ones(2, 3, 4)
    with Noted() as noted:
        torch.mm(left, right)
        torch.addmm(torch.ones(5), left, right)
        torch.bmm(batch, right.expand(2, 4, 5))
        torch.baddbmm(torch.ones(2, 3, 5), batch, right.expand(2, 4, 5))
        left.add(1)
    assert sum(noted.calls.values()) == 4
    assert counted(noted) == 2 * 3 * 4 * 5 * (1 + 1 + 2 + 2)


def test_called_again_with_the_same_layout() -> None:
    given = torch.randn(6, 5).T
    with Noted() as noted:
        torch.mm(given, torch.randn(6, 7))
    ((signature, count, call),) = replay(noted.calls)
    with Noted() as again:
        assert call().shape == (5, 7)
    assert count == 1 and again.calls == noted.calls and signature[1][0][2] == given.stride()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_step_has_the_products_that_its_floor_counts(subject: str) -> None:
    case = CASES[f"model/{subject}/train/48"]
    step = build_model(subject, case, Setting(), {})
    with Noted() as noted:
        step.call()
    floor = work_of(subject, case, length=48).training
    # Features are made twice, blocks are whole, and what is folded into weights costs as much as the sequence is short.
    assert 0.8 * floor < counted(noted) < 3 * floor


@pytest.mark.parametrize("subject", ["linformer-bidirectional", "perceiver_ar"])
def test_a_line_of_the_table(subject: str) -> None:
    cells = [cell.strip() for cell in measure(CASES[f"model/{subject}/train/48"], rounds=1).strip("|").split("|")]
    assert cells[0] == f"model/{subject}/train/48" and len(cells) == 8
    step, alone = (float(cell.removesuffix(" ms").replace(",", "")) for cell in cells[1:3])
    assert step >= 0 and math.isfinite(alone)
