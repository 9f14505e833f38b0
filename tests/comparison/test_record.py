"""The files of a comparison's folder are read back as they were written, or refused with a sentence."""

import json
from pathlib import Path

import pytest

from saccade.comparison.record import Record, alone, find_record, quota_cores, read_record, write_record
from saccade.comparison.request import make_request
from saccade.comparison.trial import Trial, read_result, trial_folder
from saccade.errors import DataError, UsageError


def record(attention: str = "none,se") -> Record:
    asked = make_request(
        model="saccade:cifar_resnet(depth=8)",
        data="sample",
        attention=attention,
        at=None,
        start="paper",
        seeds=1,
        margin=0.5,
        image_size=32,
        epochs=4,
        batch_size=64,
        lr=0.1,
        weight_decay=5e-4,
    )
    return Record(
        schema="saccade.comparison/1", asked=asked, data_digest="", environment={}, threads_per_trial=1, costs={}
    )


def test_a_record_is_found_again_also_with_an_option_that_json_has_no_tuple_for(tmp_path: Path) -> None:
    written = record("aaconv(feature_size=(7, 7))")
    write_record(written, tmp_path)
    assert find_record(tmp_path, written.asked) == read_record(tmp_path)


def test_a_record_without_a_schema_is_refused(tmp_path: Path) -> None:
    content = json.loads(record().model_dump_json(by_alias=True))
    del content["schema"]
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"comparison.json is not a comparison of this version: schema: Field required"):
        read_record(tmp_path)


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told = pytest.raises(UsageError, match=r"`out` .*cannot be written: .*; name another folder with --out")
    with told, alone(tmp_path / "file" / "out", record().asked):
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"score": 0.9}', '{"schema": "saccade.trial/9", "score": 0.9}'])
def test_a_result_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    folder = trial_folder(tmp_path, Trial("se", 0))
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result.json is not a result of schema 'saccade.trial/1'; remove it"):
        read_result(tmp_path, Trial("se", 0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("250000 100000\n", 2), ("50000 100000\n", 1)],
)
def test_a_quota_of_time_is_so_many_cores(text, cores):
    assert quota_cores(text) == cores
