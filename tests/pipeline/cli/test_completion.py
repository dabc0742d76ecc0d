"""Completion in a real bash, of the console script as pip installs it."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from pipeline.options import HEAD_NAMES

pytest.importorskip("argcomplete", reason="the extra completion is not installed")
# What bash does at Tab, once the line in README was read.
COMPLETE = """
eval "$({python} -m argcomplete.scripts.register_python_argcomplete cached-features)"
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}
case "$COMP_LINE" in *" ") COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD + 1));; esac
_python_argcomplete cached-features "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
case "$(complete -p cached-features)" in *"-o default"*) ;; *) echo "no files are offered" >&2;; esac
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Return what bash offers after a line, in a folder with a store."""
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("needs bash")
    folder = tmp_path_factory.mktemp("completion")
    script = folder / "bin/cached-features"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom pipeline.cli.commands import main\nsys.exit(main())\n")
    script.chmod(0o755)
    (folder / "photos.h5").touch()
    environment = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }

    def complete(line):
        done = subprocess.run(
            [bash, "--norc", "-c", COMPLETE.format(python=sys.executable, line=line)],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        return {each.strip() for each in done.stdout.splitlines()}

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cached-features comp", {"compare"}),
        ("cached-features compare --rep", {"--repeats"}),
        ("cached-features compare --metric macro", {"macro_f1"}),
        ("cached-features compare --heads log", {"logistic"}),
        ("cached-features train-head --head ", set(HEAD_NAMES)),
        ("cached-features compare --store pho", {"photos.h5"}),
        ("cached-features compare pho", {""}),  # left to bash, which offers files
    ],
)
def test_bash_completes(complete, line, offered):
    assert complete(line) == offered
