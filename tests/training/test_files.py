"""Files are written whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from training.files import partial_file, write_json, write_text, write_texts


def listing(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    file = tmp_path / "a.json"
    with partial_file(file) as partial:
        partial.write_text("half")
        assert not file.exists()
    assert listing(tmp_path) == {"a.json": "half"}
    write_json(file, {"n": 1}, flush=True)
    assert json.loads(file.read_text()) == {"n": 1}
    assert file.read_text().endswith("}\n")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_is_broken_off_leaves_what_was_there(tmp_path, error):
    file = tmp_path / "a"
    write_text(file, "before")

    def broken_off():
        with partial_file(file) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        broken_off()

    assert listing(tmp_path) == {"a": "before"}


def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    write_texts({first: "1", second: "2"})
    real = Path.write_text

    def full(self, *args, **kwargs):
        return real(Path("/dev/full") if "second" in self.name else self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/second'$"):
        write_texts({first: "new", second: "new"})

    assert listing(tmp_path) == {"first": "1", "second": "2"}


def test_a_reader_never_sees_half_a_file(tmp_path):
    """The name is replaced, not rewritten: who has the file open goes on reading the earlier one."""
    file = tmp_path / "a"
    write_text(file, "before")
    with file.open() as reader:
        write_text(file, "afterwards")
        assert reader.read() == "before"
    assert os.stat(file).st_size == len("afterwards")
