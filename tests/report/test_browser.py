"""The report in a real browser, opened from disk as a user opens it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from report.builders import failed_variant, one_of_each, results, variant
from saccade.report.html import write_report
from saccade.report.results import Difference, write_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report in a window; gives the page, the requests it made and what it complained about."""
    contexts = []

    def open_report(given, **window):
        write_results(given, tmp_path)
        address = write_report(tmp_path).as_uri()
        context = browser.new_context(**window)
        contexts.append(context)
        page = context.new_page()
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.route("**/*", lambda route: route.continue_() if route.request.url == address else route.abort())
        page.goto(address)
        return page, [url for url in requests if url != address], complaints

    yield open_report
    for context in contexts:
        context.close()


def test_the_report_opens_from_disk_and_asks_for_nothing(opened):
    page, requests, complaints = opened(one_of_each(), viewport={"width": 1200, "height": 900})
    assert page.locator("table.verdicts").is_visible()
    assert page.locator("table.verdicts tbody tr").count() == 6
    assert page.locator("figure svg[role=img]").count() == 10
    hidden = [drawing for drawing in page.locator("figure svg[role=img]").all() if not drawing.is_visible()]
    assert len(hidden) == 3, "of the charts of cost one is shown at a time"
    page.locator("summary").first.click()
    assert page.get_by_text("layer1.0.bn2").first.is_visible()
    assert requests == []
    assert complaints == []


def test_a_heading_sorts_the_table_by_mouse_and_by_keyboard(opened):
    page, requests, complaints = opened(one_of_each(), viewport={"width": 1200, "height": 900})
    heading = page.locator("table.costs thead th", has_text="Params")

    def names(table: str) -> list[str]:
        return [name.strip() for name in page.locator(f"table.{table} tbody th").all_inner_texts()]

    before = names("costs")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names("costs") == [*(name for name in before if name != "gam"), "gam"]
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert names("costs")[0] == "gam"
    page.locator("table.costs thead th", has_text="MACs").locator("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert names("verdicts") == before, "the other table stays as it is"
    page.locator("table.verdicts thead th", has_text="Difference").locator("button").click()
    assert names("verdicts")[0] == "se", "numbers are sorted as numbers, below zero first"
    assert set(names("verdicts")[-2:]) == {"none", "eca"}, "what has no difference stays at the end"
    assert (requests, complaints) == ([], [])


def test_zero_is_sorted_as_a_number(opened):
    nothing = variant("nothing", "hurts", Difference(mean=0.0, low=0.0, high=0.0, p=0.0), mean=0.0)
    page, _, _ = opened(results(variant("more", "helps"), nothing, failed_variant("never")))
    for heading in ("Accuracy", "Difference", "p"):
        page.locator("table.verdicts thead button", has_text=re.compile(f"^{heading}")).click()
        names = [name.strip() for name in page.locator("table.verdicts tbody th").all_inner_texts()]
        assert names[0] == "nothing", heading


def test_the_cost_axis_is_switched_by_mouse_and_by_keyboard(opened):
    page, _, complaints = opened(one_of_each(), viewport={"width": 1200, "height": 900})

    def shown() -> list[str]:
        charts = page.locator(".axis svg[role=img]").all()
        return [(chart.get_attribute("aria-label") or "").split(":")[0] for chart in charts if chart.is_visible()]

    assert shown() == ["Accuracy against parameters"]
    page.get_by_role("radio", name="latency").check()
    assert shown() == ["Accuracy against latency"]
    page.keyboard.press("ArrowRight")
    assert shown() == ["Accuracy against training step"]
    assert complaints == []


def test_the_results_are_in_the_page_as_files(opened, tmp_path):
    page, requests, _ = opened(one_of_each(), viewport={"width": 1200, "height": 900})
    for name in ("results.json", "results.csv"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == name
        saved = tmp_path / f"saved-{name}"
        download.value.save_as(saved)
        read = json.loads if name.endswith("json") else str
        assert read(saved.read_text()) == read((tmp_path / name).read_text())
    assert [url for url in requests if not url.startswith("data:")] == []


def test_a_narrow_window_scrolls_the_table_and_not_the_page(opened):
    long = variant("x" * 80, "helps", label="x" * 80, sites=["layer." * 30])
    given = results(long, command="saccade compare --data " + "y" * 200, model="z" * 120)
    page, _, _ = opened(given, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.scroll'))")
    page.locator(".scroll").first.focus()
    page.keyboard.press("ArrowRight")
    # Polled from here: the page's policy forbids the evaluation in it that Playwright's own waiting needs.
    for _ in range(100):
        if page.evaluate("document.querySelector('.scroll').scrollLeft") > 0:
            return
        page.wait_for_timeout(50)
    pytest.fail("the table did not scroll by keyboard within five seconds")


def test_on_paper_everything_is_open_and_nothing_is_to_be_pressed(opened):
    page, _, _ = opened(one_of_each(), viewport={"width": 800, "height": 1000})
    assert not page.get_by_text("layer1.0.bn2").first.is_visible()
    page.emulate_media(media="print")
    assert page.get_by_text("layer1.0.bn2").first.is_visible()
    assert not page.locator(".switch").first.is_visible()
    assert all(drawing.is_visible() for drawing in page.locator("figure svg[role=img]").all())
    assert page.evaluate("document.querySelector('.verdicts').scrollWidth <= document.body.clientWidth")


def test_a_screen_reader_hears_headings_and_tables(opened):
    page, _, _ = opened(one_of_each(), viewport={"width": 1200, "height": 900})
    heard = page.locator("main").aria_snapshot()
    assert 'heading "Did attention help?" [level=1]' in heard
    assert [heard.index(f'heading "{title}" [level=2]') for title in ("Verdicts", "What it costs", "The numbers drawn")]
    for name in ("Accuracy", "Difference, points", "p", "Verdict", "Seeds to decide", "Params"):
        assert f'columnheader "{name}"' in heard, name
    assert re.search(r'img "Differences to the baseline in points: simam \+1.23', heard)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_colours_follow_the_reader(opened, scheme, dark):
    page, _, _ = opened(one_of_each(), color_scheme=scheme)
    look = "getComputedStyle(document.querySelector(%r)).%s.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    paper = page.evaluate(look % ("body", "backgroundColor"))
    assert (paper < 60) == dark
    assert (paper > 200) != dark
    # Text, a baseline's mark in currentColor and a variant's in a variable, all as the browser resolves them.
    for selector, style in (("h2", "color"), ("svg[role=img] text", "fill"), ("tr.baseline .glyph path", "fill")):
        assert (page.evaluate(look % (selector, style)) > 200) == dark, selector
    hue = page.evaluate("getComputedStyle(document.querySelector('svg[role=img] [fill=\"var(--c1)\"]')).fill")
    assert hue == ("rgb(78, 165, 224)" if dark else "rgb(0, 114, 178)")


def test_a_script_in_a_users_text_does_not_run(opened):
    hostile = "</title></style><img src=x onerror=alert(1)><script>alert(1)</script>"
    shares = [[0.5, 0.6], [0.5, 0.7]]
    given = results(
        variants=[variant("none", per_class=shares), variant("x", "helps", label=hostile, per_class=shares)],
        model=hostile, command=hostile, data=f"imagefolder:{hostile}", classes=[hostile, "Bag"],
    )  # fmt: skip
    page, requests, complaints = opened(given)
    assert page.locator("script").count() == 1, "the report's own"
    assert page.locator("img").count() == 0
    assert hostile in page.locator("table.verdicts").inner_text()
    assert hostile in page.locator("table.classes").inner_text()
    assert requests == []
    assert complaints == []
