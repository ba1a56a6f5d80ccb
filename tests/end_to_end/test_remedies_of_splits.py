"""A split file is mended as the message about it says; the command then passes, or is refused for something else."""

import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.conftest import offered

# What is edited, what the message offers, and the edit that follows it.
SPLITS = {
    "no quotes around a name with a dot": (
        lambda text: text[: text.index("[fewshot")].replace("[training]", '[zeroshot]\nsimulated.type_1 = "test"\n[training]'),
        r'put the name in quotes: ("simulated.type_1")',
        lambda text, name: text.replace("simulated.type_1 =", f"{name} ="),
    ),
    "no quotes around a few-shot table": (
        lambda text: text.replace('[fewshot."simulated.type_1"]', "[fewshot.simulated.type_1]"),
        r'put the name in quotes: (\[fewshot."simulated.type_1"\])',
        lambda text, name: text.replace("[fewshot.simulated.type_1]", name),
    ),
    "a data set that nothing uses": (
        lambda text: text.replace("[training]", 'more = "more.h5ad"\n[training]'),
        r"\[datasets\] (more): is used nowhere; add it to \[training\]",
        lambda text, name: text.replace("[training]", f'[training]\n{name} = "train"'),
    ),
    "a misspelt table": (
        lambda text: text.replace("[training]", "[trainig]"),
        r"did you mean (training)\?",
        lambda text, name: text.replace("[trainig]", f"[{name}]"),
    ),
    "a value of training": (
        lambda text: text.replace('simulated = "train"', 'simulated = "yes"'),
        r'the one accepted value is ("train")',
        lambda text, value: text.replace('"yes"', value),
    ),
    "a misspelt cell type": (
        lambda text: text.replace("simulated.type_1", "simulated.type_l"),
        r"did you mean (type_1)",
        lambda text, name: text.replace("type_l", name),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_a_split_file_is_mended_as_its_message_says(case, settings, training):
    harm, message, mend = SPLITS[case]
    split = Path("cells_split.toml")
    shutil.copy("cells.h5ad", "more.h5ad")
    harmed = harm(split.read_text())
    assert harmed != split.read_text()
    split.write_text(harmed)
    before = training("check", *settings())
    assert before.code == 2

    split.write_text(mend(harmed, *offered(message, before.err)))
    after = training("check", *settings())
    assert after.code == 0 or (after.err != before.err and not re.search(message, after.err)), after.err
