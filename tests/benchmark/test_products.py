"""The products of a step are found, counted and called again as they were."""

import pytest
import torch
from benchmarks import products
from benchmarks.products import COLUMNS, Noted, flops_of, measure, replay

from subquadratic.benchmark.cases import Sizes
from subquadratic.benchmark.floor import work_of
from subquadratic.benchmark.machine import measure_rates
from subquadratic.benchmark.models import build_model
from subquadratic.benchmark.suites import only_against, registry
from subquadratic.benchmark.work import Setting
from subquadratic.core.backend import use_backend

SIZES = Sizes(dim=64, depth=1, heads=2, slots=16, memories=16)
CASES = registry(sizes=SIZES, lengths=(48,))
SUBJECTS = ("performer", "performer-bidirectional", "linformer-bidirectional", "fastformer-bidirectional", "feedback_transformer")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "measure_rates", lambda: measure_rates(side=256, numbers=1 << 18, tries=2))


def counted(noted: Noted) -> float:
    return sum(map(flops_of, noted.calls))


def kinds(noted: Noted) -> list[str]:
    return [call[0].overloadpacket.__name__ for call in noted.calls]


def test_operations_of_each_kind_of_product() -> None:
    left, right, batch = torch.ones(3, 4), torch.ones(4, 5), torch.ones(2, 3, 4)
    with Noted() as noted:
        torch.mm(left, right)
        torch.addmm(torch.ones(5), left, right)
        torch.bmm(batch, right.expand(2, 4, 5))
        torch.baddbmm(torch.ones(2, 3, 5), batch, right.expand(2, 4, 5))
        left.add(1)
        left.softmax(dim=-1)
    assert kinds(noted) == ["mm", "addmm", "bmm", "baddbmm", "_softmax"]
    assert counted(noted) == 2 * 3 * 4 * 5 * (1 + 1 + 2 + 2)


def test_called_again_in_order_with_the_same_layout_and_memory() -> None:
    whole = torch.randn(7, 6)
    left, right, out = whole[:5].T, whole[:, :5].T[:, :5], torch.empty(6, 5)
    with Noted() as noted:
        torch.mm(left, right, out=out)
        torch.exp_(torch.mm(out, right))
    for functions in (False, True):
        with Noted() as again:
            replay(noted, functions=functions)()
        assert kinds(again) == ["mm", "mm", "exp"][: 2 + functions]
        for (_, args, _), (_, given, _) in zip(again.calls, noted.calls, strict=False):
            assert [key[:4] for key in args] == [key[:4] for key in given]
        (first, second), (_, apart) = again.calls[0][1], again.calls[1][1]
        assert first[4] == second[4] == apart[4], "one tensor, seen in two ways"
    assert again.calls[0][2]["out"][4] != again.calls[1][1][0][4], "what is written is not what is read"


@pytest.mark.parametrize("subject", ["performer", "performer-bidirectional"])
def test_the_powers_of_a_step_are_among_its_functions(subject: str) -> None:
    step = build_model(subject, CASES[f"model/{subject}/train/48"], Setting(), {})
    with use_backend("torch"), Noted() as noted:
        step.call()
    made = kinds(noted).count("exp2_")
    with Noted() as again:
        replay(noted, functions=True)()
    assert made and kinds(again).count("exp2") == made


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_step_has_the_products_that_its_floor_counts(subject: str) -> None:
    case = CASES[f"model/{subject}/train/48"]
    step = build_model(subject, case, Setting(), {})
    with use_backend("torch"), Noted() as noted:
        step.call()
    floor = work_of(subject, case, length=48).training
    # Features are made twice, blocks are whole, and what is folded into weights costs as much as the sequence is short.
    assert 0.8 * floor < counted(noted) < 3 * floor


@pytest.mark.parametrize("subject", ["linformer-bidirectional", "perceiver_ar", "feedback_transformer"])
def test_a_line_of_the_table(subject: str) -> None:
    case = only_against(CASES[f"model/{subject}/train/48"], [])
    cells = [cell.strip() for cell in measure(case, subject, rounds=1).strip("|").split("|")]
    assert cells[0] == f"model/{subject}/train/48" and len(cells) == len(COLUMNS)
    for cell in (cells[1], cells[2], cells[4]):
        assert float(cell.removesuffix(" ms").replace(",", "")) >= 0


def test_beside_someone_elses_step() -> None:
    pytest.importorskip("performer_pytorch")
    case = only_against(CASES["model/performer/train/48"], ["published"])
    cells = measure(case, case.sides[0], rounds=1).split("|")
    assert cells[7].strip() == "performer-pytorch" and all(float(cell) > 0 for cell in cells[9:12])
