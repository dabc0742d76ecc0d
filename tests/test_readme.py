"""What the READMEs show is so: examples run, commands and options exist, tables are complete, links lead somewhere, files named exist."""

import importlib.util
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, draw, draw_tree

import features
import pipeline
from features.backbones.registry import BACKBONES
from features.engines.registry import ENGINES
from pipeline.cli.arguments.parser import make_parser
from pipeline.cli.commands import main
from pipeline.evaluation.metrics import evaluate
from pipeline.heads.registry import HEADS
from pipeline.options import SELECT
from pipeline.runs.folders import RESULTS

FACE, STAGE_ONE, STAGE_TWO = READMES = ("README.md", "features/README.md", "pipeline/README.md")
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (*READMES, "tests/README.md", "features/engines/winograd/README.md", "CHANGELOG.md")
}


def fenced(name, language):
    """Return the code blocks of a README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[name], re.M | re.S)


def shown_commands(name):
    """Return the command lines of a README, in blocks and within sentences, without placeholders for a whole command."""
    prose = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.M | re.S)
    lines = [line for block in fenced(name, "sh") for line in block.splitlines()]
    lines += [line[2:] for block in fenced(name, "text") for line in block.splitlines() if line.startswith("$ ")]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return [line for line in lines if re.match(r"(make|cached-features) [a-z]", line)]


def parsed(line):
    """Return what the command line makes of a command; an argument that it does not take ends the test."""
    _, arguments = re.split(r"\bcached-features ", line, maxsplit=1)
    return make_parser().parse_args(shlex.split(arguments, comments=True))


def helped(command, capsys):
    """Return the help of a command, or of the program."""
    with pytest.raises(SystemExit):
        make_parser().parse_args([*command.split(), "--help"])
    return capsys.readouterr().out


def test_examples_run_in_their_order(tmp_path, monkeypatch):
    """On the tiny base instead of VGG16, and small images for photos."""
    pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    for name in ENGINES.keys() - {"tensorflow"}:  # engines are not timed first
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], module="not_installed"))
    monkeypatch.chdir(tmp_path)
    files = sorted(draw_tree(tmp_path / "photos").rglob("*.png"))
    draw(tmp_path / "new/photo.jpg", 77)
    (tmp_path / "drive").mkdir()
    scope = {"paths": files, "labels": [file.parent.name for file in files]}
    examples = [block for name in READMES for block in fenced(name, "python")]
    assert len(examples) == 10
    missing = [name for name in ("dask_jobqueue", "torch") if importlib.util.find_spec(name) is None]
    examples = [block for block in examples if "torch.onnx.export" not in block]  # test_hub_models.py runs it
    examples = [
        block for block in examples if not any(f"import {name}" in block or f"from {name}" in block for name in missing)
    ]
    for example in examples:
        for name, instead in {"vgg16": "tiny", "block4_pool": "relu", "block5_pool": "last"}.items():
            example = example.replace(name, instead)
        if "photos.keras" in example:
            pipeline.export(scope["run"].out, "photos.keras", rows=4)
        exec("\n".join(line for line in example.splitlines() if not line.startswith("%")), scope)
    assert scope["X"].shape == (32, 6) and scope["y"].shape == (32,) and scope["search"].best_score_ > 0.5
    assert Path("photos.onnx").exists() and Path("drive/compare/report.html").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_commands_shown_are_accepted(name):
    """By the parser; those of make by what it would run."""
    lines = shown_commands(name)
    assert lines or name in ("CHANGELOG.md", "features/engines/winograd/README.md")
    for line in lines:
        if not line.startswith("make "):
            parsed(line)
            continue
        words = shlex.split(line, comments=True)
        dry = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, f"{line}: {dry.stderr}"
        for run in dry.stdout.splitlines():
            if "bin/cached-features " in run and not run.startswith("for "):
                parsed(run)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    text = TEXTS[name]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, part = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), link
        if part:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert part in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_files_named_in_texts_docstrings_and_comments_exist():
    sources = [path for folder in ("features", "pipeline", "tests") for path in (ROOT / folder).rglob("*.py")]
    for path in [*sources, *(ROOT / name for name in (*TEXTS, "Makefile", "setup.cfg", "pyproject.toml"))]:
        text = path.read_text(encoding="utf-8")
        for file in re.findall(r"\b(?:features|pipeline|tests)/[\w/]+\.(?:py|md|png)\b", text):
            assert (ROOT / file).is_file(), f"{path.relative_to(ROOT)} names {file}"


def test_every_option_is_documented_and_every_documented_one_exists(capsys):
    commands = re.findall(r"^    ([a-z-]+)(?: |$)", helped("", capsys), re.M)
    assert {"extract", "compare"} <= set(commands)
    offered = {option for each in commands for option in re.findall(r"--[a-z][a-z0-9-]+", helped(each, capsys))}
    rows = re.findall(r"^\| `--.*$", TEXTS[STAGE_ONE] + TEXTS[STAGE_TWO], re.M)
    told = {option for row in rows for option in re.findall(r"`(--[a-z][a-z0-9-]+)", row)}
    of_all = {"--help", "--json", "--quiet", "--verbose"}  # told in a sentence
    assert offered - of_all == told, sorted((offered - of_all) ^ told)


def test_what_settings_are_chosen_by_is_told_as_it_is(capsys):
    assert re.search(rf"^\| `--select HOW` .*\| `{SELECT}` \|$", TEXTS[STAGE_TWO], re.M)
    assert f"(default {SELECT})" in " ".join(helped("compare", capsys).split())


@pytest.mark.parametrize(
    ("name", "section", "entries"),
    [
        (STAGE_ONE, "Backbones", set(BACKBONES)),
        (STAGE_ONE, "Engines", set(ENGINES)),
        (STAGE_TWO, "Heads", set(HEADS)),
        (STAGE_TWO, "Metrics and tests", set(evaluate(np.array([0, 1]), np.eye(2)))),
        (STAGE_ONE, "Map", {each.parent.name for each in Path(features.__file__).parent.glob("*/__init__.py")}),
        (STAGE_TWO, "Map", {each.parent.name for each in Path(pipeline.__file__).parent.glob("*/__init__.py")}),
    ],
)
def test_tables_are_complete(name, section, entries):
    """Each entry of a registry, and each package, has its row."""
    text = re.search(rf"^## {section}\n(.*?)(^## |\Z)", TEXTS[name], re.M | re.S)[1]
    first = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    told = {entry.rstrip("/") for cell in first for entry in re.findall(r"`([^`]+)`", cell)}
    assert entries <= told, sorted(entries - told)


def test_files_of_runs_and_exit_statuses_are_complete():
    held = TEXTS[STAGE_TWO].split("## What a run holds")[1].split("\n## ")[0]
    assert [name for name in RESULTS if f"`{name.split('.')[0]}." not in held] == []
    (statuses,) = re.findall(r"The exit status is .*?\. ", " ".join(TEXTS[STAGE_TWO].split()))
    assert set(re.findall(r"(\d+):", main.__doc__)) == set(re.findall(r"\d+", statuses))
