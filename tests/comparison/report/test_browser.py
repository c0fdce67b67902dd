"""The page in a real Chromium: at three widths, on light and dark, by keyboard, on paper, and with axe-core's rules."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.comparison import synthetic

from subquadratic.comparison.against import against
from subquadratic.comparison.report.write import write_report
from subquadratic.comparison.results import Comparison

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
CASES: dict[str, Any] = {
    "whole": synthetic.comparison,
    "failed": synthetic.one_failed_one_skipped,
    "one_seed": lambda: synthetic.comparison(seeds=1),
    "accuracy": lambda: synthetic.comparison(unit="accuracy"),
    "halfway": synthetic.halfway,
    "hostile": synthetic.hostile,
    "many": lambda: synthetic.comparison(names=(*synthetic.OURS, *"abcdefgh")),
    "nothing": lambda: Comparison(settings={}, machine={}, data={}, unit="bits/token"),
}
VIEWS = [(width, scheme) for width in (360, 768, 1280) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    beside = against(synthetic.comparison(), synthetic.comparison(seed=1))
    return {name: write_report(make(), folder / name, against=beside if name == "whole" else None)[0] for name, make in CASES.items()}


class Visit:
    """A page in a window, and what it asked for and said."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def focused(self) -> str:
        return self.page.evaluate("(document.activeElement.id || document.activeElement.className || document.activeElement.tagName)")


@pytest.fixture
def visit(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    made: list[Visit] = []

    def start(case: str, **view: Any) -> Visit:
        made.append(Visit(browser, pages[case], **view))
        return made[-1]

    yield start
    for each in made:
        each.context.close()


@pytest.mark.parametrize("case", CASES)
def test_it_fits_asks_for_nothing_and_says_nothing(visit: Any, case: str) -> None:
    found = visit(case)
    found.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for width, scheme in VIEWS:
        found.page.set_viewport_size({"width": width, "height": 900})
        found.page.emulate_media(color_scheme=scheme)
        assert found.page.evaluate("document.documentElement.scrollWidth") == width
        outside = found.page.evaluate(
            "[...document.querySelectorAll('main *')].filter(part => !part.closest('.scroll'))"
            ".filter(part => part.getBoundingClientRect().right > innerWidth).map(part => part.outerHTML.slice(0, 99))"
        )
        assert outside == []
    found.page.get_by_role("button").click()
    assert found.said == [] and len(found.asked) == 1


@pytest.mark.parametrize(("case", "width", "scheme"), [(("whole", "hostile", "halfway")[n % 3], *view) for n, view in enumerate(VIEWS)])
def test_axe_finds_nothing(visit: Any, case: str, width: int, scheme: str) -> None:
    assert violations(visit(case, width=width, scheme=scheme)) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_is_folded(visit: Any, case: str, scheme: str) -> None:
    found = visit(case, scheme=scheme)
    found.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert violations(found) == []


def violations(found: Visit) -> list[tuple[str, str]]:
    """Rule and the first place where it is broken, of all of axe-core's rules."""
    response = axe.Axe().run(found.page).response
    return [(each["id"], each["nodes"][0]["html"][:200]) for each in response["violations"]]


def test_by_keyboard(visit: Any) -> None:
    found = visit("whole")
    page = found.page
    page.keyboard.press("Tab")
    assert found.focused() == "skip"
    page.keyboard.press("Enter")
    assert found.focused() == "main"
    page.keyboard.press("Shift+Tab")
    for _ in range(20):
        if found.focused() == "theme":
            break
        page.keyboard.press("Shift+Tab")
    before = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.keyboard.press("Space")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark" and page.inner_text("#theme") == "Light colours"
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != before
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == before
    seen = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        part = "(part => [part.tagName, part.getAttribute('aria-label'), part.innerText])(document.activeElement)"
        tag, name, text = page.evaluate(part)
        seen.add(f"{tag} {name or text}")
        if "subq report . --against OTHER" in (text or ""):
            break
    assert any(word.startswith("SUMMARY") for word in seen) and any(word.startswith("DIV Chart: Quality against") for word in seen)
    assert any(word.startswith("PRE def performer") for word in seen)


def test_details_open_and_charts_scroll_by_keyboard(visit: Any) -> None:
    page = visit("whole", width=360).page
    page.locator("figure summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure details").first.evaluate("part => part.open")
    assert page.locator("figure table").first.is_visible()
    chart = page.locator("figure .scroll").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(50):  # it may scroll smoothly
        if chart.evaluate("part => part.scrollLeft") > 0:
            break
        page.wait_for_timeout(100)
    assert chart.evaluate("part => part.scrollLeft") > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_theme(visit: Any, scheme: str) -> None:
    page = visit("whole", scheme=scheme).page
    inks = "[...document.querySelectorAll('svg text')].map(part => getComputedStyle(part).fill)"
    colours = f"{inks}.concat([...document.querySelectorAll('svg .s0 .line')].map(part => getComputedStyle(part).stroke))"
    first = page.evaluate(colours)
    page.get_by_role("button").click()
    second = page.evaluate(colours)
    assert len(first) > 100 and all(a != b for a, b in zip(first, second, strict=True))


def test_without_javascript(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    page.goto(pages["whole"].as_uri())
    assert not page.locator("#theme").is_visible() and page.locator(".verdict").is_visible() and page.locator("svg").first.is_visible()
    context.close()


def test_on_paper(visit: Any) -> None:
    page = visit("whole", scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible() and not page.locator("#theme").is_visible()
    assert page.locator(".verdict").is_visible()
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_opens_by_itself(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    for name in ("pareto-tokens", "curve-seconds", "length-train-seconds"):
        chart = pages["hostile"].parent / "charts" / f"{name}.svg"
        found = Visit(browser, chart, scheme=scheme)
        assert found.page.evaluate("document.documentElement.tagName") == "svg"
        ink = found.page.evaluate("getComputedStyle(document.querySelector('text.axis')).fill")
        assert ink == ("rgb(77, 86, 97)" if scheme == "light" else "rgb(179, 188, 197)")
        assert found.said == [] and len(found.asked) == 1
        found.context.close()
