"""Errors: one base class, and remedies in the words of whoever asked."""

import inspect

import pytest

import features
from features import errors
from features.backbones.registry import find_backbone
from features.errors import called, command, find_near, on_command_line, option
from features.sources.path_columns import compile_patterns


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
