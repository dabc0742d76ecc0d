"""What public functions take by name: options that exist, of the types that are declared."""

from pathlib import Path

import misspelt
import numpy as np
import pytest

import features
import pipeline
from features import ConvFeatures, RequestError
from features.errors import on_command_line
from features.options import ExtractOptions, flags_of, typed
from pipeline.options import CompareOptions


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"seed": "a"}, r"seed must be a whole number; got 'a'\."),
        ({"seed": None}, r"seed must be a whole number; got None\."),
        ({"seed": 1.0}, r"seed must be a whole number; got 1\.0\."),
        ({"seed": True}, r"seed must be a whole number; got True\."),
        ({"image_size": "16"}, r"image_size must be a whole number; got '16'\."),
        ({"views": "2"}, r"views must be a whole number"),
        ({"workers": np.float64(2)}, r"workers must be a whole number"),
        ({"max_skipped": "all"}, r"max_skipped must be a number; got 'all'\."),
        ({"layers": ""}, r"layers must be a list of strings or whole numbers; got ''\. Leave it out\."),
        ({"layers": []}, r"layers must be a list of strings or whole numbers; got \[\]\. Leave it out\."),
        ({"layers": [1.5]}, r"layers must be a list of strings or whole numbers; got \[1\.5\]\."),
        ({"layers": True}, r"layers must be a list of strings or whole numbers; got True\."),
        ({"retry_skipped": 1}, r"retry_skipped must be True or False; got 1\."),
        ({"dtype": 16}, r"dtype must be one of 'float16', 'float32'; got 16\."),
        ({"preprocess": ""}, r"preprocess must be one of .*; got ''\. Leave it out\."),
        ({"resize": ["box"]}, r"resize must be one of "),
        ({"out": 5}, r"out must be a path; got 5\."),
        ({"weights": 5}, r"weights must be a path; got 5\."),
        ({"column": "p[0-9]+"}, r"column must be a dict of strings, such as \{'patient': 'p\[0-9\]\+'\}; got 'p"),
    ],
)
def test_an_option_of_extract_of_another_type_is_refused(option, message):
    for function in (features.extract, features.plan_cost):
        with pytest.raises(RequestError, match=message):
            function("photos", **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"heads": " "}, r"heads must be a list of strings; got ' '\."),
        ({"heads": []}, r"heads must be a list of strings; got \[\]\. Leave it out\."),
        ({"heads": {"knn": 1}}, r"heads must be a list of strings"),
        ({"layer": [5]}, r"layer must be a list of strings; got \[5\]\."),
        ({"layer": ""}, r"layer must be a list of strings; got ''\. Leave it out\."),
        ({"settings": 5}, r"settings must be a dict of lists, such as .*; got 5\."),
        ({"settings": {"C": ()}}, r"settings must be a dict of lists"),
        ({"settings": {"units": ""}}, r"settings must be a dict of lists"),
        ({"settings": {1: (1.0,)}}, r"settings must be a dict of lists"),
        ({"memory": "x"}, r"memory must be a number; got 'x'\."),
        ({"repeats": "x"}, r"repeats must be a whole number; got 'x'\."),
        ({"overwrite": "no"}, r"overwrite must be True or False; got 'no'\."),
        ({"select": 5}, r"select must be one of 'cv', 'val'; got 5\."),
    ],
)
def test_an_option_of_compare_of_another_type_is_refused(option, message):
    with pytest.raises(RequestError, match=message):
        pipeline.compare("s.h5", **option)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (features.extract, (5,), "data must be a path; got 5"),
        (pipeline.compare, (None,), "store must be a path; got None"),
        (pipeline.train_head, ("s.h5", 5), "head must be a string; got 5"),
        (
            pipeline.predict,
            ("run", 5),
            r"images must be a path or a PIL.Image.Image or a numpy.ndarray or a list of these; got 5",
        ),
        (pipeline.report, ("",), "run must be a path or a list of paths; got ''"),
        (pipeline.plot, (5,), "run must be a path; got 5"),
    ],
)
def test_arguments_are_looked_at_as_options_are(function, arguments, message):
    with pytest.raises(RequestError, match=message):
        function(*arguments)


@pytest.mark.parametrize("rows", ["x", 2.5, False])
def test_rows_of_an_export_are_a_whole_number(rows):
    with pytest.raises(RequestError, match="rows must be a whole number"):
        pipeline.export("run", "m.keras", rows=rows)


@pytest.mark.parametrize(
    ("function", "meant"),
    [
        ("extract", "backbone"),
        ("compare", "repeats"),
        ("train_head", "metric"),
        ("predict", "weights"),
        ("export", "rows"),
        ("report", "points"),
    ],
)
def test_a_misspelt_option_is_told_the_nearest(function, meant, tmp_path):
    """What mypy says of the same calls is checked with the types of the rest."""
    with pytest.raises(RequestError, match=rf"{function} has no option \w+\. Did you mean {meant}\?"):
        getattr(misspelt, f"misspelt_{function}")(tmp_path)


def test_values_of_numpy_lists_and_paths_come_out_as_declared():
    kinds = {name: kind for name, (kind, _) in flags_of(ExtractOptions).items()}

    def taken(name, value):
        result = typed(name, kinds[name], value)
        return result, type(result)

    assert taken("seed", np.int64(3)) == (3, int)
    assert taken("max_skipped", np.float32(0.5)) == (0.5, float)
    assert taken("max_skipped", 1) == (1, int)
    assert taken("retry_skipped", np.bool_(True)) == (True, bool)
    assert taken("layers", ["a", np.str_("b")]) == (("a", "b"), tuple)
    assert taken("layers", np.array(["a"])) == (("a",), tuple)
    assert taken("layers", -2) == taken("layers", "-2") == (("-2",), tuple)
    assert taken("layers", [-2, "a", np.int64(3)]) == (("-2", "a", "3"), tuple)
    assert taken("out", Path("a/b.h5")) == (str(Path("a/b.h5")), str)
    assert taken("weights", Path("w.h5")) == ("w.h5", str) and taken("backbone", Path("own.keras")) == (
        "own.keras",
        str,
    )
    assert taken("limit", None) == (None, type(None))


@pytest.mark.parametrize("given", ["conv,last", "conv last", "conv, last", ["conv", "last"], ("conv", "last")])
def test_a_text_where_a_list_is_meant_is_cut_as_on_the_command_line(given):
    kinds = {name: kind for name, (kind, _) in flags_of(ExtractOptions).items()}
    assert typed("layers", kinds["layers"], given) == ("conv", "last")


def test_a_lone_value_is_a_list_of_one(tiny_store, tmp_path):
    kinds = {name: kind for name, (kind, _) in flags_of(CompareOptions).items()}
    assert typed("settings", kinds["settings"], {"C": 1.0, "units": "256", "scale": ["all"]}) == {
        "C": (1.0,), "units": ("256",), "scale": ("all",),
    }  # fmt: skip
    assert typed("layer", kinds["layer"], "last") == ("last",)
    found = pipeline.compare(tiny_store, "majority,knn", layer="last", settings={"n_neighbors": 3}, out=tmp_path / "c")
    assert {head["head"] for head in found.heads} == {"majority", "knn"}


def test_numbers_of_numpy_are_written_as_json(tiny_store, tmp_path):
    found = pipeline.compare(
        tiny_store, np.array(["logistic"]), seed=np.int64(1), settings={"C": np.array([1, 10])}, out=tmp_path / "c"
    )
    assert found.seed == 1 and (tmp_path / "c/compare.json").exists()


def test_a_path_is_taken_for_the_source(tree, tmp_path):
    assert features.extract(tree, backbone="tiny", out=tmp_path / "s.h5", limit=np.int64(20)).rows == 20


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image_size": "16"}, "image_size must be a whole number; got '16'"),
        ({"layer": ["last"]}, "layer must be a string or a whole number"),
        ({"pool": None}, "pool must be a string; got None"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
    ],
)
def test_the_transformer_looks_at_types_too(parameters, message):
    with pytest.raises(RequestError, match=message):
        ConvFeatures("tiny", **parameters).fit([])


def test_messages_on_the_command_line_name_the_flag():
    with on_command_line("cached-features"), pytest.raises(RequestError, match=r"^--image-size must be a whole number"):
        typed("image_size", int | None, "16")
