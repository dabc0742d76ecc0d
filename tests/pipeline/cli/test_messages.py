"""What strangers' names and full disks do to messages."""

import json

import pytest

from pipeline.cli.commands import main
from pipeline.cli.messages import printable, printable_json


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2J\x07cat", r"\x1b[2J\x07cat"),
        ("a\tb\nc", "a\tb\nc"),
        ("cat\r.png\x7f\x9b", r"cat\x0d.png\x7f\x9b"),
        ("\u202egnp.tac\u2066", r"\u202egnp.tac\u2066"),
        ("caf\udce9", r"caf\xe9"),
        ("Käfer 猫", "Käfer 猫"),
    ],
)
def test_names_do_not_steer_the_terminal(name, shown):
    assert printable(name) == shown
    line = printable_json([name])
    assert json.loads(line) == [name] and not set(line) & set("\x1b\x07\x9b\r\n\u202e")
    line.encode()


def test_a_class_of_a_telling_name_is_escaped_wherever_it_is_printed(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val", "test"):
        (tree / split / "red").rename(tree / split / "\x1b[31mred")
    for command in (["extract", "--data", str(tree), "--backbone", "tiny", "--out", "s.h5"], ["inspect", "s.h5"]):
        assert main(command) == 0
        printed = "".join(capsys.readouterr())
        assert "\x1b" not in printed and r"\x1b[31mred" in printed


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_store, small_disk, capsys):
    (small_disk / "ballast").write_bytes(bytes(196_000))
    for command in ("compare", "train-head"):
        head = "--heads" if command == "compare" else "--head"
        assert main([command, "--store", str(tiny_store), head, "majority", "--out", str(small_disk / "run")]) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert "No space left on device. Free some space and run the same command again" in told
        left = {path.relative_to(small_disk).parts[0] for path in small_disk.rglob("*") if path.is_file()}
        assert left <= {"ballast", ".fits"}  # a fit that was finished is kept
        assert not [path for path in (small_disk / ".fits").glob("*") if path.suffix != ".npz"]
