"""The report as a file: what it says, that it keeps users' text as text, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from html.parser import HTMLParser

import pytest

from report.builders import failed_variant, one_of_each, results, variant
from saccade.errors import DataError
from saccade.report.html import report_html, write_report
from saccade.report.results import Difference, EpochRecord, FailedTrial, write_results

SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._hidden = False
        self.feed(html)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)


def test_the_page_holds_variants_verdicts_and_numbers():
    text = Page(report_html(one_of_each())).text
    for word in (
        "none",
        "simam",
        "se",
        "aaconv",
        "gam",
        "eca",
        "helps",
        "hurts",
        "no difference shown",
        "too few runs",
    ):
        assert re.search(rf"\b{word}\b", text), word
    for number in ("85.10 %", "−0.61", "[−0.97, −0.25]", "<0.001", "0.0042", "77.8 k", "9.00 M", "74.0", "×2.39", "14"):
        assert number in text, number
    for part in ("layer2.0.bn2", "residual, 2 sites", "saccade compare --seeds 2", "5500 train, 500 val, 3000 test",
                 "1 × 28 × 28", "2.15.0", "Intervals are not corrected.", "the loss became infinite"):  # fmt: skip
        assert part in text, part


def test_the_answer_comes_first():
    text = Page(report_html(one_of_each())).text
    assert text.index("On this data simam helped") < text.index("Verdicts") < text.index("What the words mean")
    assert text.index("The numbers drawn") < text.index("Failed trials") < text.index("Notes") < text.index("Command")


def test_a_users_text_stays_text():
    hostile = variant(SCRIPT, "helps", label=SCRIPT, at=SCRIPT, sites=[SCRIPT])
    page = Page(report_html(results(
        hostile, model=SCRIPT, data=SCRIPT, command=SCRIPT, classes=[SCRIPT], notes=[SCRIPT], images={SCRIPT: 1},
        environment={SCRIPT: SCRIPT}, failed=[FailedTrial(name=SCRIPT, seed=0, reason=SCRIPT)],
    )))  # fmt: skip
    assert page.tags.count("script") == 1, "the report's own"
    assert page.text.count(SCRIPT) >= 15


def test_nothing_is_fetched():
    html = report_html(one_of_each())
    page = Page(html)
    assert {"link", "img", "iframe", "image", "use", "object", "base"}.isdisjoint(page.tags)
    given = [(tag, value) for tag, name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert [(tag, value.partition(",")[0]) for tag, value in given] == [
        ("a", "data:application/json;base64"),
        ("a", "data:text/csv;base64"),
    ]
    assert re.findall(r"url\((?!#)|@import", html) == []
    addresses = [value for _, name, value in page.attributes if "://" in value and not name.startswith("xmlns")]
    assert addresses == []
    policy = [value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src")]
    [script] = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"]


def test_no_id_is_used_twice():
    ids = [value for _, name, value in Page(report_html(one_of_each())).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    labelled = [value for _, name, value in Page(report_html(one_of_each())).attributes if name == "aria-labelledby"]
    assert set(labelled) <= set(ids)


def test_every_drawing_has_words_for_those_who_do_not_see_it():
    html = report_html(one_of_each())
    drawings = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    assert len(drawings) == len(re.findall("<svg (?!class=.glyph)", html)) == 10
    assert drawings[0].startswith("Differences to the baseline in points: simam +1.23")


ONE_SEED = results(
    variant("se", "too few runs", Difference(mean=0.01, low=None, high=None, p=None), scores=[0.86], curves=[[]]),
    variants=[variant("none", scores=[0.85], curves=[[]])],
    seeds=[0],
)
NOTHING_DONE = results(variants=[failed_variant("none"), failed_variant("se")], classes=[], notes=[], images={})


@pytest.mark.parametrize(
    "given",
    [
        one_of_each(),
        ONE_SEED.model_copy(update={"variants": [variant("none", scores=[0.85], curves=[]), *ONE_SEED.variants]}),
        NOTHING_DONE,
        results(variant("se", "hurts", latency_ms=None, train_step_ms=None, scores=[None, 0.8], mean=0.8)),
        results(variant("se", "helps"), controls=[variant("none-longer", "helps", peak_memory_mib=512.4)]),
    ],
    ids=["every verdict", "one seed", "all failed", "nothing measured", "a control"],
)
def test_a_missing_number_is_never_shown_as_a_python_value(given):
    text = Page(report_html(given)).text
    assert re.findall(r"\b(None|nan|NaN|inf|Undefined|null)\b", text) == []


def test_missing_numbers_have_words():
    text = Page(report_html(NOTHING_DONE)).text
    assert "0 of 2 seeds" in text
    assert "Latency" not in text
    text = Page(report_html(results(variant("se", "hurts", latency_ms=None, train_step_ms=None)))).text
    assert text.count("not measured") == 2


def test_the_table_of_costs_has_every_cost_and_its_ratio():
    measured = {
        "state_bytes": 2**20,
        "latency_p95_ms": 1.5,
        "latency_compiled_ms": 0.5,
        "images_per_s": 400.0,
        "peak_memory_mib": 20.0,
    }
    dear = {
        "state_bytes": 3 * 2**20,
        "latency_p95_ms": 3.0,
        "latency_compiled_ms": 0.8,
        "images_per_s": 100.0,
        "peak_memory_mib": 50.0,
    }
    given = results(variants=[variant("none", **measured), variant("se", "helps", **dear)])
    text = Page(report_html(given)).text
    start = text.index("What it costs")
    costs = text[start : text.index("The numbers drawn")]
    for words in (
        "On disk, MiB",
        "3.0 ×3.00",
        "3.00 ×2.00",
        "Compiled, ms",
        "0.80 ×1.60",
        "100 ×0.25",
        "Peak memory, MiB",
        "50 ×2.50",
    ):
        assert words in costs, words


def test_write_report_writes_beside_the_results(tmp_path):
    given = one_of_each()
    write_results(given, tmp_path)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == report_html(given)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "results.csv", "results.json"]
    assert path.stat().st_size < 600_000


def test_a_large_comparison_is_a_page_of_three_megabytes_at_most():
    draws = random.Random(0)
    scores = [draws.random() for _ in range(10)]
    curve = [EpochRecord(epoch=e, train_loss=draws.random(), val_accuracy=draws.random()) for e in range(1, 201)]
    shares = [[draws.random() for _ in range(100)] for _ in range(10)]
    parts = {"scores": scores, "curves": [curve] * 10, "per_class": shares}
    variants = [variant("none", **parts), *(variant(f"se{number}", "helps", **parts) for number in range(10))]
    classes = [f"class {number}" for number in range(100)]
    assert len(report_html(results(variants=variants, seeds=list(range(10)), classes=classes))) < 3 << 20


def test_write_report_without_results_says_so(tmp_path):
    with pytest.raises(DataError, match=r"holds no results\.json"):
        write_report(tmp_path)
