"""A description of an exported model for people: what it was made of, how good it is, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from features.errors import counted

_FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "mcc", "log_loss", "calibration_error")
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~])")  # what Markdown, or HTML in it, would read as more than text


def format_card(card: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the model card as Markdown (Mitchell et al. 2019, "Model cards for model reporting").

    Parameters
    ----------
    card : dict
        What is written to ``<model>.json``.
    run : dict
        The content of ``run.json``; runs of earlier versions lack some entries.
    """
    parts = (
        _model(card, run),
        _use(card),
        _data(run),
        _results(run),
        _decisions(card, run),
        _limits(card, run),
        _terms(card),
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _text(value: object) -> str:
    """Return text of strangers as one line that Markdown shows as it is."""
    return _MARKS.sub(r"\\\1", " ".join(str(value).split()))


def _model(card: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    made = card["provenance"]
    yield f"# {_text(Path(card['model']).name)}"
    yield ""
    yield (
        f"An image classifier of {counted(len(card['class_names']), 'class')} ({', '.join(map(_text, card['class_names']))}): the head "
        f"`{card['head']}` on features of the frozen base {_text(made['backbone'])}, trained by cached-features."
    )
    yield ""
    yield f"- input: {card['input']}"
    yield f"- output: {card['output']}"
    yield f"- decision: {_text(card['decision'])}"
    yield f"- large JPEGs: {card['large_jpegs']}"
    parity = card["parity"]
    yield (
        f"- compared with the run on {counted(parity['rows'], 'image')}: {parity['same_class']} have the same class, probabilities differ by "
        f"at most {parity['largest_difference']:.1e}"
    )
    yield f"- further: {_text(Path(card['model']).name)}.json has all settings, versions and checksums"


_CALLS = {  # lines that load a model, and what calls it with images
    "keras": ("import keras", "model = keras.saving.load_model({path!r})", "model(images)"),
    "savedmodel": ("import tensorflow", "model = tensorflow.saved_model.load({path!r})", "model.serve(images)"),
    "onnx": (
        "import onnxruntime",
        "model = onnxruntime.InferenceSession({path!r})",
        'dict(zip([each.name for each in model.get_outputs()], model.run(None, {{"images": images}})))',
    ),
}


def _use(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield code that classifies one photo."""
    name, form, point = Path(card["model"]).name, card["format"], card["operating_point"]
    library, load, call = (each.format(path=name) for each in _CALLS[form])
    named = form == "onnx" or card["sets"] is not None or "novelty:" in card["output"]
    yield "## Use"
    yield ""
    yield "```python"
    yield "import json"
    yield ""
    yield from sorted((library, "import numpy"))
    yield "from PIL import Image, ImageOps"
    yield ""
    yield load
    yield f"names = json.load(open({name + '.json'!r}, encoding='utf-8'))['class_names']"
    yield "image = ImageOps.exif_transpose(Image.open('photo.jpg')).convert('RGB')"
    yield "images = numpy.asarray(image)[None]"
    yield f"outputs = {call}"
    yield f"probabilities = numpy.asarray(outputs{'[' + repr('probabilities') + ']' if named else ''})[0]"
    if point is None:
        yield "print(names[probabilities.argmax()], probabilities.max())"
    else:
        yield f"positive = probabilities[names.index({point['positive']!r})] >= {point['threshold']!r}"
        yield f"print({point['positive']!r} if positive else {point['other']!r}, probabilities)"
    yield "```"


def _data(run: Mapping[str, Any]) -> Iterator[str]:
    source = run["provenance"].get("source", {})
    yield "## Data"
    yield ""
    yield f"From {_text(source.get('data', 'an unknown source'))}; images were resized to {run['provenance']['image_size']} pixels."
    yield ""
    yield "| class | train | val | test |"
    yield "|---|---|---|---|"
    for name in run["class_names"]:
        yield f"| {_text(name)} | {' | '.join(str(run['rows'][split][name]) for split in ('train', 'val', 'test'))} |"
    yield ""
    group = run.get("group")
    if group:
        yield f"Images of one group ({_text(group)}) are in one split, so the figures are for new groups."
    else:
        yield (
            "No column of groups was named, so images of one group may be in several splits: the figures are for images that are as "
            "like the training images as the test images are."
        )
    notes = run["provenance"].get("splits")
    yield ""
    yield f"How images were read and split: {'; '.join(map(_text, notes)) if notes else 'as the source gives them'}."


def _results(run: Mapping[str, Any]) -> Iterator[str]:
    yield "## Results on the test images"
    yield ""
    yield "| metric | value | 95 % interval |"
    yield "|---|---|---|"
    for name in (each for each in _FIGURES if run["test"].get(each) is not None):
        yield f"| {name.replace('_', ' ')} | {run['test'][name]:.3f} | {_ends((run.get('intervals') or {}).get(name))} |"
    if run.get("by_class"):
        yield ""
        yield "| class | images | recall [95 %] | precision [95 %] |"
        yield "|---|---|---|---|"
        for each in run["by_class"]:
            shares = " | ".join(
                f"{_number(each[name])} {_ends(each.get(f'{name}_interval'))}" for name in ("recall", "precision")
            )
            yield f"| {_text(each['name'])} | {each['support']} | {shares} |"
    metric = run.get("metric", "accuracy").replace("_", " ")
    found = [each for each in (run.get("slices") or {}).get("slices", []) if _stands_out(each)]
    for each in found:
        yield ""
        yield (
            f"Images with {_text(each['column'])} {_text(each['value'])} ({each['rows']}) stand out: {metric} "
            f"{_number(each['metric'])} {_ends(each['interval'])}, the others {_number(each['rest'])}."
        )


def _stands_out(of: Mapping[str, Any]) -> bool:
    return of["p_value"] is not None and of["p_value"] < 0.05


def _decisions(card: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    point, sets, novelty = (run.get(name) for name in ("operating_point", "sets", "novelty"))
    yield "## When to trust a prediction"
    yield ""
    if point:
        test = point["test"]
        yield (
            f"- {_text(point['positive'])} is predicted from probability {point['threshold']:.4g} on (chosen for "
            f"{_text(point['chosen_for'])}): on test, sensitivity {_number(test['sensitivity'])}, specificity "
            f"{_number(test['specificity'])}."
        )
    if sets:
        test = sets["test"]
        of = ", ".join(f"{_text(each['name'])} {each['coverage']:.3f}" for each in test["by_class"])
        yield (
            f"- Sets of classes hold the true one with probability {sets['level']:g}, class by class: on test "
            f"{test['coverage']:.3f} {_ends(test['interval'])} ({of}), with {test['mean_size']:.2f} classes on average."
        )
    if novelty:
        yield (
            f"- `predict` calls an image unlike all training images if its distance to the nearest is above that of "
            f"{1 - novelty['rate']:.0%} of them: {novelty['test']:.1%} {_ends(novelty['interval'])} of the test images. "
            + (
                "So does the model in this file, where its output `novelty` is above 1."
                if "novelty_difference" in card["parity"]
                else "The model in this file does not; its probabilities of an image of another kind say nothing."
            )
        )
    if not (point or sets or novelty):
        yield "- The run has no operating point, no sets of classes, and does not know which images are unlike its own."


def _limits(card: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- One class per image, and always one of the above, whatever the image shows."
    yield "- The figures hold for images of the same kind as the test images: same cameras, crops and shares of classes."
    few = [name for name in run["class_names"] if run["rows"]["test"][name] < 30]
    if few:
        yield f"- Of {', '.join(map(_text, few))} there are fewer than 30 test images: their figures say little."
    corrections = run.get("corrections")
    if corrections:
        yield f"- {counted(corrections['changed'], 'label')} changed and {counted(corrections['dropped'], 'image')} dropped before training."


def _terms(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Licence"
    yield ""
    yield f"Weights of the base: {_text(card['weights_licence'])}. Ask the owner of the images for the terms of the data."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ends(interval: Any) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
