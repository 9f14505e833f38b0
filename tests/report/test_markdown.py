"""A comparison as Markdown holds the numbers of the file, and no markup of a user's."""

from report.builders import one_of_each, results, variant
from saccade.report.html import report_html
from saccade.report.markdown import results_markdown
from saccade.report.results import Against, Difference, Results

BESIDE = Against(
    difference=Difference(mean=-0.0042, low=-0.0071, high=-0.0013, p=0.0107), verdict="hurts", seeds_to_decide=None
)


def controlled() -> Results:
    longer = variant("longer", "no difference shown", at=None, start=None, sites=[])
    return results(variant("se", "helps", against={"longer": BESIDE}), controls=[longer])


def test_every_variant_is_a_row_with_its_numbers():
    text = results_markdown(one_of_each())
    lines = text.splitlines()
    assert lines[0].startswith("On this data ")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    assert set(rows) >= {"variant", "none", "simam", "se", "aaconv", "gam", "eca"}
    assert "| −0.61 |" in rows["se"]
    assert "| hurts |" in rows["se"]
    assert len({line.count("|") for line in lines if line.startswith("| ")}) == 1
    assert "- failed: eca, seed 1: the loss became infinite" in lines


def test_a_control_has_a_table_of_its_own_here_and_on_the_page():
    text = results_markdown(controlled())
    assert "| beside longer | difference, points | 95 % interval | p | verdict |" in text
    assert "| se | −0.42 | " in text
    page = report_html(controlled())
    assert "Beside the control “longer (control)”" in page
    start = page.index("Table of verdicts beside longer")
    assert "−0.42" in page[start : page.index("</table>", start)]


def test_a_users_text_is_no_markup():
    text = results_markdown(results(variant("a|b<script>", "helps"), notes=["see [this](http://x)\n| cell |"]))
    assert "a\\|b\\<script\\>" in text
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "see \\[this\\](http://x) \\| cell \\|" in text
