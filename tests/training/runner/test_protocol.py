"""Messages of a machine that is older, newer, damaged or hostile. The fields are walked, so that a new one is covered by itself."""

import copy
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bootstrap.machine import Machine
from bootstrap.table import table
from training.errors import RunError
from training.runner.protocol import format_of, read_message, without_unknown
from training.runner.report import FORMAT, GpuStatus, IdleStatus, JobStatus, MachineStatus, Status, as_json, from_json

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol_format_0"
RENTED = Machine("incubator-l4", "incubator-l4", "/mnt/data/incubator", usd_per_hour=0.85)
EVIL = [
    "forged\nscreen  finished", "\x1b[2J\x1b]0;title\x07", "..", "/etc/passwd", "../../x", "", "a\tb\rc",
    "\u202eexe", "\ud800", "a" * 100_000,
    "9" * 5000, "NaN", "0001-01-01T00:00:00+00:00", -1, 2**70, 1e308,
    float("nan"), float("inf"), True, None, [1], ["a", ["b"]], {"a": 1},
]  # fmt: skip
Place = tuple[str | int, ...]


def recorded() -> dict[str, Any]:
    """What a machine of format 0 answered, with all that may be there."""
    found: dict[str, Any] = json.loads((FIXTURES / "status.json").read_text())
    return found


def complete() -> dict[str, Any]:
    """The same as this code writes it: with every field that our classes have."""
    found: dict[str, Any] = json.loads(as_json(from_json(json.dumps(recorded()))))
    return found


def places(document: Any, above: Place = ()) -> list[Place]:
    """Where each field stands, those of messages in messages too."""
    if isinstance(document, list):
        return places(document[0], (*above, 0)) if document and isinstance(document[0], dict) else []
    if not isinstance(document, dict):
        return []
    return [place for name, value in document.items() for place in ((*above, name), *places(value, (*above, name)))]


def holder(document: Any, place: Place) -> Any:
    for step in place[:-1]:
        document = document[step]
    return document


PLACES = places(complete())


def test_the_walk_reaches_every_field_of_every_message():
    kinds = (Status, JobStatus, MachineStatus, GpuStatus, IdleStatus)

    assert len(PLACES) == sum(len(fields(kind)) for kind in kinds)


def outcome(document: Any) -> str:
    """The table that would be shown, or the refusal."""
    try:
        return table(from_json(json.dumps(document), "box"), RENTED)
    except RunError as failure:
        return f"failed: {failure}"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_no_value_of_a_field_forges_a_row_moves_the_cursor_or_ends_in_a_traceback(place):
    for evil in EVIL:
        document = complete()
        holder(document, place)[place[-1]] = evil
        text = outcome(document)
        lines = text.split("\n")
        assert all(line.expandtabs().isprintable() for line in lines), evil
        if text.startswith("failed: "):
            assert re.match(r"failed: box: the answer cannot be read: .*fab bootstrap brings it up to date$", text), text
            assert len(text) < 700, evil
        else:
            assert not any(line.startswith("screen") for line in lines), evil
            assert len(lines) <= 4 + {"push_error": 1, "error_tail": 2}.get(str(place[-1]), 0), evil


@pytest.mark.parametrize("name", [evil for evil in EVIL if not isinstance(evil, bool)], ids=lambda evil: repr(evil)[:20])
def test_no_name_of_a_job_is_more_than_a_word(name):
    document = complete()
    document["jobs"][0]["name"] = name

    if isinstance(name, str) and name.isalnum() and len(name) <= 100:
        assert from_json(json.dumps(document)).jobs[0].name == name
    else:
        with pytest.raises(RunError, match=r"jobs\.0\.name|hex escape"):
            from_json(json.dumps(document))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_field_that_an_older_side_does_not_send_has_its_default(place):
    document = complete()
    holder(document, place).pop(place[-1], None)

    if place == ("jobs", 0, "name"):
        with pytest.raises(RunError, match=r"jobs\.0\.name: .*Field required"):
            from_json(json.dumps(document))
        return
    assert "job" in table(from_json(json.dumps(document)), RENTED) or place == ("jobs",)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_field_that_only_a_newer_side_knows_is_ignored(place):
    document = complete()
    holder(document, place)["of_tomorrow"] = {"deep": [1, None, "x"]}
    document["format"] = FORMAT + 1

    assert from_json(json.dumps(document)).jobs == from_json(json.dumps(recorded())).jobs


def test_a_record_of_format_0_is_understood():
    found = from_json((FIXTURES / "status.json").read_text())

    assert (found.format, found.jobs[0].name, found.jobs[0].phase, found.jobs[0].safe_steps) == (0, "job", "pushing", (2, 4, 6, 8))
    assert found.machine.gpus is not None
    assert from_json(as_json(found)) == found


def test_a_newer_format_that_cannot_be_read_says_what_to_update():
    document = complete() | {"format": FORMAT + 1}
    document["jobs"][0]["step"] = {"micro": 1, "optimizer": 2}

    with pytest.raises(
        RunError, match=rf"jobs\.0\.step: .*; it is of format {FORMAT + 1}, and this code knows {FORMAT}: update the code"
    ):
        from_json(json.dumps(document), "box")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "Traceback (most recent call last):\n  File",
        "[" * 200_000,
        '{"jobs":' * 200_000,
        '{"x":' + "[" * 9999 + "]" * 9999 + "}",
    ],
    ids=["empty", "null", "list", "traceback", "deep list", "deep objects", "deep unknown field"],
)
def test_what_is_no_message_is_one_sentence(text):
    with pytest.raises(RunError, match=r"^box: the answer cannot be read: .*\./fab bootstrap brings it up to date$") as failed:
        from_json(text, "box")
    assert len(str(failed.value)) < 500


def test_a_message_of_100_mb_is_not_read():
    with pytest.raises(RunError, match=r"the answer has 104,857,\d+ characters \(accepted: at most 16,777,216\)"):
        from_json('{"jobs": "' + "x" * (100 * 2**20) + '"}', "box")


@pytest.mark.parametrize(
    ("text", "number"), [("{}", 0), ('{"format": 3}', 3), ('{"format": -1}', 0), ('{"format": "3"}', 0), ("[", 0), ("[1]", 0)]
)
def test_the_format_of_a_message(text, number):
    assert format_of(text) == number


def test_only_a_newer_format_may_have_fields_that_we_do_not_know():
    slip, newer = b'{"name": "a", "x": 1}', b'{"name": "a", "x": 1, "format": 2}'

    assert without_unknown(slip, ["name"], 1) == slip
    assert json.loads(without_unknown(newer, ["name", "format"], 1)) == {"name": "a", "format": 2}


def test_every_kind_of_message_is_a_copy_that_nobody_can_change():
    status = read_message(Status, json.dumps(recorded()), "box", FORMAT)

    with pytest.raises(AttributeError):
        copy.copy(status.jobs[0]).name = "x"  # type: ignore[misc]
    assert isinstance(status.jobs[0], JobStatus)
