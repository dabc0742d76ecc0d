"""The map of features: few rows are placed by t-SNE, the others beside their nearest."""

import numpy as np
import pytest
from samples import blobs

from pipeline.reports.analysis import projection
from pipeline.reports.analysis.projection import project


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(projection, "EMBEDDED", 60)


def test_further_rows_stand_with_their_class(few):
    X, y, _ = blobs(3, rows=100)
    placed = project(X)[0]["t-SNE"]
    assert placed.shape == (300, 2) and np.isfinite(placed).all()
    apart = np.linalg.norm(placed[:, None] - placed, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (y[apart.argmin(axis=1)] == y).mean() > 0.99


def test_rows_that_fit_are_all_placed_by_t_sne_and_the_same_again(few):
    X, _, _ = blobs(3, rows=20)
    assert np.array_equal(project(X)[0]["t-SNE"], project(X)[0]["t-SNE"])
    more = np.concatenate([X, X[:3]])  # copies of rows go where rows like them are
    placed = project(more)[0]["t-SNE"]
    assert len(placed) == 63 and len(np.unique(placed, axis=0)) >= 60
