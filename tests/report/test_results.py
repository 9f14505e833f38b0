"""The results file: written atomically, read back as it was, and refused where it is something else."""

import json

import pytest

from report.builders import one_of_each
from saccade.errors import DataError
from saccade.report.results import read_results, write_results


def test_it_comes_back_as_it_was_written(tmp_path):
    results = one_of_each()
    write_results(results, tmp_path)
    assert read_results(tmp_path) == results
    assert {file.name for file in tmp_path.iterdir()} == {"results.json", "results.csv"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": "saccade.results/2"}, "schema"),
        ({"schema": None}, "schema"),
        ({"margin": float("nan")}, "margin"),
        ({"surprise": 1}, "surprise"),
        ({"seeds": "0,1"}, "seeds"),
    ],
)
def test_another_schema_or_another_content_is_refused_by_name(tmp_path, change, named):
    write_results(one_of_each(), tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(DataError, match=rf"results\.json is not a results file of schema 'saccade.results/1': {named}"):
        read_results(tmp_path)


def test_a_file_without_a_schema_is_refused(tmp_path):
    write_results(one_of_each(), tmp_path)
    path = tmp_path / "results.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["schema"]
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match=r"schema: Field required"):
        read_results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"is not a results file"):
        read_results(tmp_path)
