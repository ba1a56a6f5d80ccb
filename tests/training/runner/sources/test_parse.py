"""What --data may say."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import UserError
from training.runner.sources.parse import PRESETS, Gcs, Hub, Local, Wanted, Web, parse_source, plan, read_json, to_json

HASH = "0123456789abcdef" * 4
COMMIT = "1" * 40


@pytest.mark.parametrize(
    ("text", "source", "to"),
    [
        ("gs://bucket/data/cells/", Gcs("bucket", "data/cells"), "cells"),
        ("gs://bucket", Gcs("bucket", ""), "bucket"),
        (f"hf://datasets/org/na.me@{COMMIT}", Hub("dataset", "org/na.me", COMMIT, ""), "na.me"),
        (f"hf://org/name@{COMMIT}/a/b.pt", Hub("model", "org/name", COMMIT, "a/b.pt"), "b.pt"),
        ("hf://org/name@main/", Hub("model", "org/name", "main", ""), "name"),
        ("hf://datasets/org/name@refs/convert/parquet/x", Hub("dataset", "org/name", "refs/convert/parquet", "x"), "x"),
        ("hf://org/name@refs%2Fpr%2F1", Hub("model", "org/name", "refs/pr/1", ""), "name"),
        (
            f"https://host/a/my%20cells.h5ad?v=2#sha256={HASH.upper()}",
            Web("https://host/a/my%20cells.h5ad?v=2", HASH),
            "my cells.h5ad",
        ),
        (f"http://127.0.0.1:8/x#sha256={HASH}", Web("http://127.0.0.1:8/x", HASH), "x"),
    ],
)
def test_each_form_is_read_written_and_has_a_place(text, source, to):
    assert parse_source(text) == source
    assert parse_source(source.text) == source
    assert plan([text]) == (Wanted(source, to),)


def test_a_local_file_or_folder_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.h5ad").touch()

    assert plan(["cells", "cells/a.h5ad"]) == (Wanted(Local(Path("cells")), "cells"), Wanted(Local(Path("cells/a.h5ad")), "a.h5ad"))
    monkeypatch.chdir("cells")
    assert plan(["."])[0].to == "cells"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan(["~/cells"])[0].source == Local(tmp_path / "cells")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "s3://bucket/x",
            r"s3:// is no source of data \(accepted: a name in configs/data, gs://BUCKET/PREFIX, hf",
        ),
        ("gs://", "nothing is no name of a bucket"),
        ("gs://My_Bucket/x", "My_Bucket is no name of a bucket"),
        ("gs://bucket/*.h5ad", "without wildcards"),
        ("gs://bucket/a/../b", r"without wildcards, `\.\.` and empty parts"),
        ("hf://org/name", "the revision is missing: what the hub serves today"),
        ("hf://datasets/org/name/file", "the revision is missing"),
        ("hf://name@main", "names no repository of the Hugging Face hub"),
        ("hf://datasets/name@main", "names no repository"),
        ("hf://spaces/org/name@main", "names no repository"),
        ("hf://org/name@main/../../x", "is no path in a repository"),
        ("https://host/file", r"the hash is missing \(accepted: https://HOST/FILE#sha256=HEX"),
        ("https://host/file#sha256=12", "the hash is not 64 hex digits"),
        (f"https://host/my cells#sha256={HASH}", "write %20 for a blank"),
        (f"https://host:port/x#sha256={HASH}", "Port could not be cast"),
        (f"https://host/#sha256={HASH}", "names no file"),
        (f"https:///x#sha256={HASH}", "names no host"),
        (f"http://host/file#sha256={HASH}", "http:// can be changed on its way"),
        ("se600n", r"no name in configs/data \(.*se600m.*\), and no such file or folder here; did you mean se600m"),
        ("SE-600M", "did you mean se600m"),
        ("no/such/folder", "no such file or folder"),
        ("", "no such file or folder"),
        ("gs://bucket/.hidden", r"would land in data/.hidden \(accepted: a relative path inside data/"),
        (f"https://host/a%2F..#sha256={HASH}", r"would land in data/\.\."),
    ],
)
def test_what_is_no_source_is_refused_with_what_is_accepted(text, why):
    with pytest.raises(UserError, match=why) as refusal:
        plan([text])

    assert text.partition("#")[0] in str(refusal.value)
    assert "accepted: " in str(refusal.value)


def test_secrets_in_a_url_are_not_said():
    with pytest.raises(UserError, match="with a user or a password") as refusal:
        parse_source(f"https://user:pass@host/file?signature=hush#sha256={HASH}")
    with pytest.raises(UserError, match="the hash is missing") as another:
        parse_source("https://host/file?signature=hush")

    source = parse_source(f"https://host/file?signature=hush#sha256={HASH}")
    assert [text for text in (str(source), str(refusal.value), str(another.value)) if "hush" in text or "pass@" in text] == []


def test_two_sources_do_not_land_in_one_place(tmp_path):
    with pytest.raises(UserError, match=r"gs://one/cells and gs://two/cells would both land in data/cells; leave one out"):
        plan(["gs://one/cells", "gs://two/cells"])
    (tmp_path / "two.yaml").write_text("sources: [{from: gs://bkt/x, to: cells}, {from: gs://bkt/y, to: cells/y}]")
    with pytest.raises(UserError, match="data/cells and data/cells/y, one inside the other"):
        plan(["two"], tmp_path)


def test_a_preset_is_a_list_of_sources_with_their_places(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("sources:\n  - from: gs://bucket/x\n  - {from: gs://bucket/y, to: z/y}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    assert plan(["mine"], tmp_path) == (Wanted(Gcs("bucket", "x"), "x"), Wanted(Gcs("bucket", "y"), "z/y"))
    assert plan(["./mine"], tmp_path) == (Wanted(Local(Path("mine")), "mine"),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "not a readable YAML file"),
        ("- gs://b/x", "not a list of sources"),
        ("sources: gs://b/x", "not a list of sources"),
        ("sources: [gs://b/x]", r'sources: "gs://b/x" \(accepted'),
        ("sources: [{from: gs://b/x, into: y}]", "accepted: `sources:`, a list of"),
        ("sources: [{to: y}]", "accepted: `sources:`, a list of"),
        ("sources: [{from: gs://bkt/x, to: ../y}]", r"would land in data/\.\./y"),
        ("sources: [{from: gs://bkt/x, to: /y}]", r"would land in data//y"),
        ("sources: [{from: ftp://b/x}]", "ftp:// is no source"),
        ("sources: [{from: ./here}]", "a file lists no local sources"),
    ],
)
def test_a_preset_that_is_wrong_is_refused_by_name(tmp_path, text, why):
    (tmp_path / "bad.yaml").write_text(text)

    with pytest.raises(UserError, match=why) as refusal:
        plan(["bad"], tmp_path)

    assert str(refusal.value).startswith(str(tmp_path / "bad.yaml"))


def test_the_file_for_the_machine_says_the_same_without_what_is_local(tmp_path, monkeypatch):
    wanted = plan(["gs://bucket/x", "se600m", str(tmp_path), f"https://host/f?signature=s#sha256={HASH}"])
    file = tmp_path / "sources.json"
    file.write_text(to_json(wanted))

    assert read_json(file) == tuple(each for each in wanted if not isinstance(each.source, Local))
    monkeypatch.setattr(sys, "stdin", io.StringIO(file.read_text()))
    assert read_json(Path("-")) == read_json(file)
    file.write_text("{")
    with pytest.raises(UserError, match="not a readable list of sources"):
        read_json(file)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_each_preset_of_ours_can_be_read(preset):
    assert plan([preset])


def test_the_seeds_data_land_where_the_seeds_run_reads_them():
    run = (PRESETS.parent / "runs" / "seed_000.yaml").read_text()
    (features,) = re.findall(r"perturbation_features_file: data/(\S+)", run)

    assert {each.to: str(each.source).partition("@")[0] for each in plan(["se600m"])} == {
        "SE600M_embedding": "hf://datasets/VirtualCell2025/SE600M-embedding",
        features: "hf://arcinstitute/SE-600M",
    }


@pytest.mark.parametrize("module", ["training.runner.sources.parse", "training.runner.sources.fetch"])
def test_it_opens_without_heavy_packages(module):
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    opened = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert {"torch", "lightning", "numpy", "pydantic", "huggingface_hub", "yaml"}.isdisjoint(opened)
