"""Errors: one base class, and remedies in the words of whoever asked."""

import ast
import inspect
import re
import shlex
import threading

import pytest

import features
from features import errors, extract
from features.backbones.registry import find_backbone
from features.errors import called, command, find_near, on_command_line, option
from features.sources.path_columns import compile_patterns
from pipeline.deploy.prediction import find_images
from pipeline.deploy.watching import watch_folder


def test_all_errors_are_public_and_derive_from_one():
    found = {name for name, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)}
    assert found - {"UnreadableImage", "UnreadableNow"} <= set(features.__all__)
    assert all(issubclass(getattr(errors, name), features.CachedFeaturesError) for name in found)
    assert issubclass(features.RequestError, ValueError)


def test_remedies_name_arguments_or_flags():
    assert option("image_size", 96) == "image_size=96" and option("limit") == "limit=..."
    assert option("overwrite", True) == "overwrite=True"
    assert command("train-head", store="s.h5") == "pipeline.train_head(store='s.h5')"
    assert command("extract", data="my photos") == "features.extract(data='my photos')"
    with on_command_line("cached-features"):
        assert option("image_size", 96) == "--image-size 96" and option("limit") == "--limit"
        assert option("overwrite", True) == "--overwrite"
        assert option("settings", {"C": (1, 10)}) == "--set C=1,10"
        assert command("train-head", store="my s.h5") == "cached-features train-head --store 'my s.h5'"
        assert called("image_size") == "--image-size" and called("settings") == "--set"
    assert option("settings", {"C": (1, 10)}) == "settings={'C': (1, 10)}"
    assert called("image_size") == "image_size"


def test_a_path_that_is_not_there_is_told_the_nearest_that_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/cats").mkdir(parents=True)
    assert find_near("photo") == find_near("fotos/") == "Did you mean photos?"
    assert find_near("photo/cats") == "Did you mean photos/cats?"
    assert find_near(tmp_path / "photos/cat") == f"Did you mean {tmp_path}/photos/cats?"
    assert find_near("photo/birds") == "Check: ls ."  # there is none in photos either
    assert find_near("photos/birds") == "Check: ls photos"
    assert find_near("photos/birds", "Make one.") == "Make one."
    assert find_near("photos") == "Check: ls ."  # it is there, but of another kind
    assert find_near("/gone/for/good") == "Check: ls /"


def remedy_of(refuse):
    """Return the words of the shell's command at the end of an error's message."""
    with pytest.raises(errors.RequestError) as raised:
        refuse()
    return shlex.split(re.split("Check: |Create it: |your own: ", str(raised.value))[1])


def test_commands_of_the_system_are_quoted_for_its_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = 'it\'s "my" $HOME;x'
    (tmp_path / odd).mkdir()
    assert remedy_of(lambda: extract(odd)) == ["ls", "-R", odd]
    assert remedy_of(lambda: find_images([odd])) == ["ls", odd]
    assert remedy_of(lambda: next(watch_folder(f"{odd}/in", threading.Event()))) == ["mkdir", "-p", f"{odd}/in"]
    (tmp_path / f"{odd}.h5").touch()
    python, flag, code = remedy_of(lambda: find_backbone(f"{odd}.h5"))
    (load,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.keywords)
    assert (python, flag) == ("python", "-c") and ast.literal_eval(load.args[0]) == f"{odd}.h5"


@pytest.mark.parametrize(
    ("refuse", "name"),
    [
        (lambda: find_backbone("vgg"), "--backbone"),
        (lambda: find_backbone("torch.hub:x"), "--backbone"),
        (lambda: compile_patterns({"a/b": "x"}), "--column"),
    ],
)
def test_errors_name_flags_on_the_command_line(refuse, name):
    with on_command_line("cached-features"), pytest.raises(errors.RequestError, match=f"^{name} must "):
        refuse()


def test_a_remedy_can_be_pasted_into_a_shell():
    with on_command_line("cached-features"):
        assert command("predict", "RUN", "my photos") == "cached-features predict RUN 'my photos'"
        assert option("layers", ("-2", "relu")) == "--layers=-2,relu"  # a word with a dash would be taken for a flag
        assert option("seed", -1) == "--seed=-1"
        assert option("settings", {"kernel": ("a b",)}) == "--set 'kernel=a b'"
