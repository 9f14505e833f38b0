"""The answer in one sentence, for every mixture of verdicts."""

from __future__ import annotations

import pytest

from report.builders import failed_variant, one_of_each, results, variant
from saccade.report.answer import answer
from saccade.report.results import Against, Difference, FailedTrial


def too_few(name, seeds):
    return variant(name, "too few runs", seeds_to_decide=seeds)


def same(name):
    return variant(name, "no difference shown")


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ([variant("se", "helps")], "On this data se helped."),
        ([variant("se", "hurts")], "On this data se hurt."),
        ([same("se")], "On this data se showed no difference (within ±0.5 points)."),
        ([too_few("se", 14)], "On this data nothing is decided yet; se needs about 14 seeds to decide."),
        ([too_few("se", None)], "On this data nothing is decided yet; se needs more seeds to decide."),
        ([variant("se", "helps"), variant("ge", "helps")], "On this data both attentions helped."),
        ([variant(name, "hurts") for name in ("se", "ge", "gc")], "On this data all 3 attentions hurt."),
        (
            [variant("se", "hurts"), variant("sem", "hurts"), same("aaconv"), too_few("gam", 14)],
            (
                "On this data none of 4 attentions was shown to help; se and sem hurt; "
                "aaconv showed no difference (within ±0.5 points); gam needs about 14 seeds to decide."
            ),
        ),
        ([variant("se", "helps"), variant("ge", "hurts")], "On this data se helped; ge hurt."),
        (
            [too_few("se", 9), too_few("ge", 14)],
            "On this data nothing is decided yet; more seeds are needed to decide (se about 9, ge about 14).",
        ),
        (
            [too_few("se", 9), too_few("ge", None)],
            "On this data nothing is decided yet; both attentions need more seeds to decide.",
        ),
        (
            [variant("se", "helps"), *(variant(f"m{number}", "hurts") for number in range(5))],
            "On this data se helped; 5 attentions hurt.",
        ),
        ([], "Only the baseline none was trained, so there is nothing to compare."),
    ],
)
def test_sentence_of_the_verdicts(variants, sentence):
    assert answer(results(*variants)) == sentence


def test_failures_are_part_of_the_answer():
    assert answer(one_of_each()) == (
        "On this data simam helped; se hurt; aaconv showed no difference (within ±0.5 points); "
        "gam needs about 14 seeds to decide; eca has no verdict; 2 trials failed."
    )


def test_a_variant_that_never_finished_is_not_told_to_run_more_seeds():
    failed = [FailedTrial(name="se", seed=seed, reason="killed") for seed in (0, 1)]
    assert answer(results(failed_variant("se"), failed=failed)) == "No verdict on se; 2 trials failed."


def test_one_failed_trial_is_singular():
    failed = [FailedTrial(name="se", seed=1, reason="killed")]
    assert answer(results(variant("se", "hurts"), failed=failed)) == "On this data se hurt; 1 trial failed."


def test_without_a_baseline_nothing_is_said_of_the_others():
    given = results(variant("se", "helps"), variants=[failed_variant("none"), variant("se", "too few runs")])
    assert answer(given) == "No verdict: the baseline none has no finished trial to compare with."


def test_a_control_that_helps_is_told():
    given = results(variant("se", "helps"), controls=[variant("none-longer", "helps")])
    assert answer(given) == "On this data se helped; none-longer (control), which has no attention, helped."


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("helps", "beside longer (control) se helped too"),
        ("hurts", "beside longer (control) se hurt"),
        ("too few runs", "beside longer (control) se was not shown to help"),
        ("no difference shown", "beside longer (control) se was not shown to help"),
    ],
)
def test_what_helped_is_told_beside_the_control(word, said):
    beside = Against(difference=Difference(mean=0.0, low=-0.1, high=0.1, p=0.5), verdict=word, seeds_to_decide=None)
    given = results(
        variant("se", "helps", against={"longer": beside}), variant("gam", "hurts", against={"longer": beside}),
        controls=[variant("longer", "no difference shown")],
    )  # fmt: skip
    assert answer(given) == f"On this data se helped; gam hurt; {said}."
