"""A real comparison: scores from checkpoints, verdicts from scores, the same numbers whenever and however it is run."""

import csv
import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import stats

from comparison.conftest import SMALL
from saccade.comparison import compare
from saccade.comparison.record import read_record, usable_cores
from saccade.comparison.trial import CHECKPOINT, Trial, build_variant, read_predictions, trial_folder
from saccade.data import load_data
from saccade.errors import UsageError
from saccade.profiling.timing import threads
from saccade.surgery import Plan
from training.runs import image_folder

SMALL_SEEDS = [0, 1]


def results_of(comparison):
    return json.loads((comparison.folder / "results.json").read_text(encoding="utf-8"))


def test_scores_are_those_of_the_checkpoints_on_the_test_images(finished):
    data = load_data("sample")
    record = read_record(finished.folder)
    for variant in results_of(finished)["variants"]:
        for seed, score in zip(SMALL_SEEDS, variant["scores"], strict=True):
            model = build_variant(record.asked, record.asked.variant(variant["name"]), data, seed).eval()
            model.load_state_dict(load_file(trial_folder(finished.folder, Trial(variant["name"], seed)) / CHECKPOINT))
            model.to(memory_format=torch.channels_last)
            right = 0
            for images, labels in zip(data.test.images.split(256), data.test.labels.split(256), strict=True):
                batch = data.normalise(images).contiguous(memory_format=torch.channels_last)
                with threads(1), torch.no_grad():
                    right += (model(batch).argmax(1) == labels).sum().item()
            assert score == right / 3000


def test_a_checkpoint_holds_trained_weights_and_the_plan(finished):
    request = read_record(finished.folder).asked
    for variant in request.variants:
        path = trial_folder(finished.folder, Trial(variant.name, 0)) / "checkpoint.safetensors"
        with safe_open(path, framework="pt") as file:
            plan = Plan.from_json(file.metadata()["plan"])
            steps = file.get_tensor("bn1.num_batches_tracked").item()
        assert {edit.attention for edit in plan.edits} == ({variant.attention} - {None})
        assert steps == 5500 // 64


def test_intervals_and_p_are_scipys_on_the_scores_in_the_file(finished):
    results = results_of(finished)
    baseline = results["variants"][0]["scores"]
    for variant in results["variants"][1:]:
        test = stats.ttest_rel(variant["scores"], baseline)
        interval = test.confidence_interval(0.95 ** (1 / 3))  # for three variants at once
        assert variant["difference"] == {
            "mean": pytest.approx(sum(variant["scores"]) / 2 - sum(baseline) / 2, abs=1e-12),
            "low": pytest.approx(interval.low),
            "high": pytest.approx(interval.high),
            "p": pytest.approx(1 - (1 - test.pvalue) ** 3),
        }


def test_the_results_file_has_its_schema(finished):
    results = results_of(finished)
    assert results["schema"] == "saccade.results/1"
    assert (results["metric"], results["baseline"], results["margin"]) == ("accuracy", "none", 0.5)
    assert (results["seeds"], results["data"], results["epochs"]) == ([0, 1], "sample", 1)
    assert (results["controls"], results["failed"]) == ([], [])
    none, se, gam, aaconv = results["variants"]
    assert (none["name"], none["difference"], none["verdict"], none["sites"]) == ("none", None, None, [])
    assert se["sites"] == ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]
    assert (gam["name"], gam["options"]) == ("gam(reduction=8)", {"reduction": 8})
    assert (aaconv["at"], aaconv["sites"]) == ("layer[23].*.conv1", ["layer2.0.conv1", "layer3.0.conv1"])
    for variant in results["variants"]:
        assert len(variant["scores"]) == len(variant["curves"]) == 2
        assert all(0 <= score <= 1 for score in variant["scores"])
        assert variant["mean"] == pytest.approx(sum(variant["scores"]) / 2)
        assert min(variant["params"], variant["macs"], variant["latency_ms"], variant["train_step_ms"]) > 0


def test_the_table_for_programs_has_every_trial(finished):
    rows = list(csv.DictReader((finished.folder / "results.csv").read_text(encoding="utf-8").splitlines()))
    scores = {(row["variant"], int(row["seed"])): float(row["accuracy"]) for row in rows}
    expected = {
        (variant["name"], seed): score
        for variant in results_of(finished)["variants"]
        for seed, score in zip(SMALL_SEEDS, variant["scores"], strict=True)
    }
    assert scores == expected


def test_one_process_gives_the_same_scores_as_two(finished, tmp_path):
    again = compare(**SMALL, jobs=1, out=tmp_path / "again")
    assert scores(again) == scores(finished)


def test_finished_trials_are_skipped_and_missing_ones_run_again(finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished.folder, out)
    (trial_folder(out, Trial("se", 1)) / "result.json").unlink()
    (out / "results.json").unlink()
    (out / "report.html").unlink()
    events = []
    again = compare(**SMALL, jobs=1, out=out, on_event=events.append)
    assert {(event.trial.variant, event.trial.seed) for event in events} == {("se", 1)}
    assert scores(again) == scores(finished)
    assert again.report.is_file()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": 3}, "seeds"),
        ({"epochs": 2}, "settings"),
        ({"attention": "none,se"}, "variants"),
        ({"margin": 1}, "margin"),
    ],
)
def test_a_folder_of_another_comparison_is_refused(finished, changes, named):
    with pytest.raises(UsageError, match=rf"holds another comparison: it differs in {named}; name a new folder"):
        compare(**(SMALL | changes), out=finished.folder)


def test_a_finished_comparison_is_told_again_without_training(finished, tmp_path):
    out = tmp_path / "a copy, ü"
    shutil.copytree(finished.folder, out)
    settings, events = [], []
    again = compare(**SMALL, jobs=1, out=out, on_setting=settings.append, on_event=events.append)
    assert events == []
    assert len(settings[0].done) == 8
    assert settings[0].command.endswith(f"--out '{out}' --jobs 1")
    assert scores(again) == scores(finished)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not overwrite me")
    with pytest.raises(UsageError, match=r"exists and holds no comparison"):
        compare(**SMALL, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_diverging_trial_fails_with_its_reason_and_the_rest_is_told(tmp_path):
    comparison = compare(**(SMALL | {"attention": "none,se", "seeds": [0], "lr": 1e30}), out=tmp_path / "out")
    results = results_of(comparison)
    assert [(trial["name"], trial["seed"]) for trial in results["failed"]] in (
        [("none", 0), ("se", 0)],
        [("se", 0), ("none", 0)],
    )
    assert all("TrialError: the training loss became nan" in trial["reason"] for trial in results["failed"])
    texts = [(tmp_path / f"out/trials/{name}-0/error.txt").read_text() for name in ("none", "se")]
    assert all(text.startswith("Traceback") and "the training loss became nan" in text for text in texts)
    assert [variant["scores"] for variant in results["variants"]] == [[None], [None]]
    assert results["variants"][1]["verdict"] == "too few runs"
    assert comparison.report.is_file()


def test_a_mistake_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(
        UsageError, match=r"`at` .='layer9.\*'. matches no module of CifarResNet .did you mean 'layer3.0'"
    ):
        compare(**(SMALL | {"at": "layer9.*"}), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def scores(comparison) -> dict[str, list[float]]:
    return {variant["name"]: variant["scores"] for variant in results_of(comparison)["variants"]}


def test_it_prints_as_its_answer(finished):
    assert str(finished).startswith("On this data ")
    assert str(finished).endswith(f"({finished.folder / 'report.html'})")


def test_what_should_be_known_beforehand_is_said(tmp_path):
    """More jobs than cores, a coarse test, images that changed: one small comparison, begun and begun again."""
    root = tmp_path / "images"
    for split in ("train", "val"):
        for shade, name in enumerate(("dark", "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("L", (8, 8), 200 * shade + number).save(folder / f"{number}.png")
    asked = SMALL | {"attention": "none,se", "seeds": 1, "data": f"imagefolder:{root}", "image_size": 8}
    settings = []
    compare(**asked, jobs=1000, out=tmp_path / "out", on_setting=settings.append)
    (setting,) = settings
    notes = "\n".join(setting.notes)
    assert setting.jobs == min(usable_cores(), 2)
    assert re.search(r"1000 jobs were asked for; \d+ run at a time", notes)
    assert "one of the 4 test images is worth 25 points, more than the margin of 0.5" in notes
    assert "4 of its training images" in notes
    Image.new("L", (8, 8), 99).save(root / "val" / "dark" / "3.png")
    with pytest.raises(UsageError, match=r"the images of .* have changed since the comparison in .* was begun"):
        compare(**asked, out=tmp_path / "out")


def test_images_that_stay_in_files_score_as_those_in_memory(tmp_path, monkeypatch):
    data = f"imagefolder:{image_folder(tmp_path / 'images é', train=12, others=4)}"
    asked = SMALL | {"attention": "none,se", "seeds": 1, "data": data, "image_size": 12}
    in_memory = compare(**asked, out=tmp_path / "memory")
    monkeypatch.setattr("saccade.data.image_folder.IN_MEMORY", 0)
    in_files = compare(**asked, out=tmp_path / "files")
    assert not isinstance(load_data(data, 12).train.images, torch.Tensor)
    for ours, theirs in zip(in_files.results.variants, in_memory.results.variants, strict=True):
        assert (ours.scores, ours.per_class) == (theirs.scores, theirs.per_class)


def test_classes_and_images_are_those_of_the_predictions(finished):
    data, results = load_data("sample"), results_of(finished)
    right = {
        (variant["name"], seed): read_predictions(finished.folder, Trial(variant["name"], seed)) == data.test.labels
        for variant in results["variants"]
        for seed in SMALL_SEEDS
    }
    for variant in results["variants"]:
        for seed in SMALL_SEEDS:
            ours = right[variant["name"], seed]
            assert variant["scores"][seed] == ours.double().mean().item()
            for number, share in enumerate(variant["per_class"][seed]):
                assert share == ours[data.test.labels == number].double().mean().item()
        if variant["name"] != "none":
            gained = [(right[variant["name"], s] & ~right["none", s]).double().mean().item() for s in SMALL_SEEDS]
            assert variant["images"]["gained"] == pytest.approx(sum(gained) / 2)
            mean = variant["difference"]["mean"]
            assert variant["images"]["gained"] - variant["images"]["lost"] == pytest.approx(mean)
            assert variant["images"]["low"] < mean < variant["images"]["high"]
