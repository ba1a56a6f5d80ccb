"""run.json as its readers see it, from this version and from earlier ones."""

import json

import pytest

from training.run_facts import facts_of, read_facts, run_id_of

OLD: dict = {
    "starts": [{"time": "2026-11-20T10:00:00+00:00", "step": 0, "total_steps": 8, "device": "cpu", "reason": "start"}],
    "split": {},
}


def test_a_run_of_the_format_before_ids_is_known_by_its_first_start():
    text = json.dumps(OLD)
    longer = json.dumps(OLD | {"starts": [*OLD["starts"], {"time": "2026-11-21T10:00:00+00:00", "step": 4, "total_steps": 16}]})

    assert run_id_of(text) == json.dumps(OLD["starts"][0], sort_keys=True) == run_id_of(longer)
    facts = facts_of(longer)
    assert facts is not None
    assert (facts.format, facts.latest.step, facts.latest.total_steps, facts.latest.device) == (0, 4, 16, None)
    assert f"{facts.begun:%Y-%m-%d %H:%M %Z}" == "2026-11-20 10:00 UTC"


def test_an_id_and_fields_of_a_newer_version_are_read(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(OLD | {"run_id": "5f", "format": 9, "of tomorrow": [1], "git_commit": None}))

    facts = read_facts(tmp_path)

    assert facts is not None
    assert (facts.run_id, facts.format) == ("5f", 9)


@pytest.mark.parametrize(
    "text",
    [None, "", "x", "[]", "{}", "3", '{"starts": []}', '{"starts": {}}', '{"starts": [1]}', '{"run_id": "", "starts": [{}]}',
     '{"run_id": 7, "starts": [{}]}', '{"starts": [{"total_steps": "many"}]}', "[" * 100_000, b"\xff"],
)  # fmt: skip
def test_anything_else_is_no_run(text):
    assert facts_of(text) is None


def test_a_folder_without_a_run_has_none(tmp_path):
    assert read_facts(tmp_path) is None
