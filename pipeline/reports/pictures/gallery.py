"""Images in a report: mistakes, where a head looked, the map, likely label errors, near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.errors import command, counted, option
from features.runtime.log import log
from features.splits import SPLITS
from features.store.reader import FeatureStore

from ...data.whitening import DIMENSIONS
from ...leakage.exposure import several, with_and_without
from ...runs.predictions import Predictions
from ...training.request import Request
from ...training.splitting import near_copies_of, units_among
from ..analysis import class_activation
from ..analysis.label_issues import closest, copies, expected_errors, label_errors
from ..analysis.projection import EMBEDDED, NEIGHBOURS, project
from ..analysis.refitted_head import Refitted
from .thumbnails import Thumbnails

# How many images a page contains, and their sides in pixels; this bounds the page's size.
MISTAKES, SUSPECTS, COPIES, CLOSEST, POINTS = 16, 24, 12, 8, 2000
CARD, LARGE = 128, 224
FEWEST_CELLS = 4  # across a map of where a head looked; fewer say nothing of an image's parts
PRODUCTS = 2e12  # most multiplications for finding near-duplicates: about a minute
SYMBOLS, COLOURS = (
    4,
    10,
)  # of points on the map, both by the class's number, so that twenty classes differ in one of them
MAP_WIDTH, MAP_HEIGHT = 640, 460

_SPLITS = {code: name for name, code in SPLITS.items()}


class Gallery:
    """Images of one run as thumbnails, with their labels and predictions.

    Parameters
    ----------
    predictions : Predictions
    thumbnails : Thumbnails
    points : int
        Maximum number of images on the map.
    """

    def __init__(self, predictions: Predictions, thumbnails: Thumbnails, points: int = POINTS):
        self.points = points
        self.predictions, self.rows, self.thumbnails = predictions, predictions.rows, thumbnails
        self.split, self.names = predictions.splits[0], predictions.rows.class_names

    def card(self, row: int, side: int = CARD) -> dict[str, Any]:
        """Return an image with its path, label and split."""
        return {
            "row": row,
            "image": self.thumbnails.of(row, side),
            "path": self.rows.paths[row],
            "label": self.names[self.rows.labels[row]],
            "split": _SPLITS[int(self.split[row])],
        }

    def mistakes(self, head: str) -> dict[str, Any]:
        """Return a head's most confident mistakes on test images, by the mean over the splits that test an image."""
        mean = self.predictions.mean(head)
        tested = np.flatnonzero(~np.isnan(mean[:, 0]))
        predicted = mean[tested].argmax(axis=1)
        wrong = tested[predicted != self.rows.labels[tested]]
        order = wrong[np.argsort(-mean[wrong].max(axis=1), kind="stable")]
        cards = [
            {**self.card(int(row)), "predicted": self.names[mean[row].argmax()], "chance": float(mean[row].max())}
            for row in order[:MISTAKES]
        ]
        return {"cards": cards, "count": len(wrong), "tested": len(tested)}

    def attention(self, store: FeatureStore, head: Refitted, stored: np.ndarray) -> dict[str, Any]:
        """Return where a linear head looked on selected test images, or the reason why that is unknown.

        `stored`, (n_images,), are the rows of the images in the store.
        """
        layers = [part.layer for part in head.features.parts]
        if len(layers) > 1:
            return {"why": f"The head uses {len(layers)} layers ({', '.join(layers)}), whose cells do not correspond."}
        shape = store.layers[layers[0]]
        read = head.features.parts[0].read
        if store.kinds[layers[0]] == "vector":
            return {
                "why": f"The store holds {layers[0]} pooled over space ({head.features.pool}), so the position of each "
                f"value is lost. Extract whole maps to see it: {command('extract', pool='none')}"
            }
        grid = class_activation.grid_of(shape, read)
        if grid is None:
            return {
                "why": f"The head reads {read} of the tokens of {layers[0]}, so it is not known which patches counted. To see it: "
                f"{option('pool', 'avg')}"
            }
        if min(grid[:2]) < FEWEST_CELLS:
            return {
                "why": f"{layers[0]} has {grid[0]} × {grid[1]} cells, too few to say which part of an image counted."
            }
        tests = np.flatnonzero(self.split == SPLITS["test"])
        kinds = class_activation.pick(self.rows.labels[tests], head.probabilities)
        chosen = [place for places in kinds.values() for place in places]
        values = store.read(layers[0], "flatten", stored[tests[chosen]])
        added = class_activation.activation_maps(class_activation.cells_of(values, grid), head.coef, read)
        predicted = head.probabilities[chosen].argmax(axis=1)
        of_predicted = added[np.arange(len(chosen)), :, :, predicted]
        top = float(np.quantile(np.abs(of_predicted), 0.98))
        heats = {place: class_activation.heat(one, top) for place, one in zip(chosen, of_predicted, strict=True)}
        groups = []
        for kind, places in kinds.items():
            cards = [
                {
                    **self.card(int(tests[place]), LARGE),
                    "heat": heats[place],
                    "predicted": self.names[head.probabilities[place].argmax()],
                    "chance": float(head.probabilities[place].max()),
                }
                for place in places
            ]
            groups.append({"kind": kind, "cards": cards})
        return {"groups": groups, "cells": f"{grid[0]} × {grid[1]}", "layer": layers[0], "pool": head.features.pool}

    def map(self, X: np.ndarray, seed: int) -> dict[str, Any]:
        """Return positions of images on maps of their features X, (n_images, n_features)."""
        chosen = np.arange(len(X))
        if len(X) > self.points:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(X))[: self.points])
        log.info(
            f"map      {counted(len(chosen), 'image')} are placed by their features: t-SNE, which takes up to a minute"
        )
        maps, shares = project(X[chosen], seed)
        if not maps:
            return {"why": "The features do not vary in two directions."}
        places = {name: _fit(xy) for name, xy in maps.items()}
        return {
            "rows": chosen.tolist(),
            "at": {name: xy.tolist() for name, xy in places.items()},
            "kinds": list(maps),
            "shares": [float(share) for share in shares],
            "embedded": EMBEDDED,
            "neighbours": NEIGHBOURS,
            "all": len(X),
            "size": (MAP_WIDTH, MAP_HEIGHT),
        }

    def suspects(self, probabilities: np.ndarray) -> dict[str, Any]:
        """Return likely label errors, by out-of-sample probabilities, (n_images, n_classes)."""
        found = label_errors(self.rows.labels, probabilities)
        cards = [
            {
                **self.card(each.row),
                "suggested": self.names[each.suggested],
                "given": each.given,
                "chance": each.likelier,
            }
            for each in found[:SUSPECTS]
        ]
        expected = expected_errors(self.rows.labels, probabilities)
        of = int((~np.isnan(probabilities[:, 0])).sum())
        return {"cards": cards, "found": found, "expected": round(expected), "of": of}

    def copies(self) -> dict[str, Any]:
        """Return byte-identical images that occur in several splits or under several labels."""
        groups = copies(self.rows, self.split)
        return {"groups": [[self.card(row) for row in group[:4]] for group in groups[:COPIES]], "count": len(groups)}

    def near_copies(self, store: FeatureStore, asked: Request) -> dict[str, Any]:
        """Return clusters of near-copies across the split, and each head's figures with and without them."""
        n = len(self.rows)
        if float(n) ** 2 / 2 * DIMENSIONS > PRODUCTS:
            return {"why": f"{n:,} images are too many to compare all pairs here: {command('audit', store=store.path)}"}
        found = near_copies_of(store, asked)
        test, groups = self.split == SPLITS["test"], []
        for images in several(found):
            tested, others = images[test[images]], images[~test[images]]
            if len(tested) and len(others):
                groups.append([self.card(int(row)) for row in (*tested[:2], *others[:2])])
        splits, of = list(self.predictions.splits), self.predictions.probabilities
        units = units_among(self.rows, np.ones(n, bool), self.predictions.group)
        return {
            "groups": groups[:COPIES],
            "count": len(groups),
            "exposed": int(found.exposed(test).sum()),
            "tested": int(test.sum()),
            "figures": {
                head: with_and_without(self.rows.labels, splits, each, found, units) for head, each in of.items()
            },
        }

    def closest(self, X: np.ndarray) -> dict[str, Any]:
        """Return test images, each with the most similar other image, by the cosine of features X."""
        test = self.split == SPLITS["test"]
        if float(test.sum()) * float((~test).sum()) * X.shape[1] > PRODUCTS:
            return {"why": f"{len(X):,} images are too many to compare all pairs."}
        found = closest(X, self.rows.sha256, test)
        pairs = [{"cosine": cosine, "cards": [self.card(a), self.card(b)]} for cosine, a, b in found[:CLOSEST]]
        return {"pairs": pairs, "median": float(np.median([each[0] for each in found])) if found else None}


def _fit(places: np.ndarray) -> np.ndarray:
    """Return positions moved and scaled into the map, each direction by its own scale."""
    low, high = places.min(axis=0), places.max(axis=0)
    unit = (places - low) / np.where(high > low, high - low, 1.0)
    margin = 14
    size = np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * margin
    return np.round(margin + unit * size, 1)
