"""Names and texts from outside: what would leave the folder, forge a row or move the cursor."""

import pytest

from training.errors import UserError
from training.text import escaped
from training.untrusted import file_below, path_below, single_name

BAD = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../x",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    "a/.",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    "a\u202eb",
    "x" * 256,
    "\udc80",
]


@pytest.mark.parametrize("name", [*BAD, ".git/config", "a/.GIT/config", ".git", "HEAD", "runs/a/head"])
def test_a_name_that_would_leave_the_folder_or_does_not_print_is_refused(name):
    with pytest.raises(UserError, match=r"gs://b: it lists .* \(accepted: a relative path") as refused:
        file_below(name, "gs://b")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["a", "a/b.h5ad", "..a", "a..b/c", ".hidden", "Zelle µ.h5ad", "step=000000004/trainer.ckpt"])
def test_a_name_below_a_folder_is_taken_as_it_is(name):
    assert file_below(name, "gs://b") == name


@pytest.mark.parametrize("name", [*BAD, "a/b", "-x", ".x", "a b", "a;b", "$(id)", "é", "_x", "a+b", "x" * 101])
def test_a_name_of_a_run_is_one_word(name):
    with pytest.raises(UserError, match="is no name of a run"):
        single_name(name, "machine")


@pytest.mark.parametrize("name", ["screen", "fine-tune.2", "a=b", "0", "x" * 100])
def test_a_name_of_a_run_is_taken_as_it_is(name):
    assert single_name(name, "machine") == name


def test_text_is_printed_without_effect_on_the_terminal():
    assert escaped("ok\n\x1b[2J\u202e\tµ") == "ok\\n\\x1b[2J\\u202e\\tµ"
    assert escaped("a\tb\nc\r", keep="\n\t") == "a\tb\nc\\r"


def test_a_path_below_a_folder_passes_no_symbolic_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")  # the user's own
    folder = tmp_path / "folder"
    (folder / "out").symlink_to("/etc")
    (folder / "dangling").symlink_to("/nowhere")

    assert path_below(folder, "a/b", "gs://bucket") == folder / "a/b"
    for name in ("out", "out/passwd", "dangling"):
        with pytest.raises(UserError, match="is a symbolic link; gs://bucket is not written or read through one"):
            path_below(folder, name, "gs://bucket")
    with pytest.raises(UserError, match="it lists"):
        path_below(folder, "../a", "gs://bucket")
