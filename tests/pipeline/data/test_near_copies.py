"""Near-copies and series, planted in made-up features."""

import itertools

import numpy as np
import pytest

from pipeline.data.near_copies import THRESHOLD, find_near_copies
from pipeline.data.row_blocks import Stored
from pipeline.data.series import PLACES, find_series
from pipeline.data.whitening import whiten


def correlated(n, width=128, seed=0):
    """Return rows whose variance lies mostly in a few directions, as that of features does."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((width, width)) * np.exp(-np.arange(width) / 30)[:, None]
    return (random.standard_normal((n, width)) @ mixed + 3).astype(np.float32)


def contents(n):
    """Return SHA-256 that are all different."""
    return np.pad(np.arange(n, dtype="<u4")[:, None].view(np.uint8), ((0, 0), (0, 28)))


def planted(n, times, width=128, seed=0):
    """Return features and the original of each image; the last `times` are the first ones, nearly."""
    random = np.random.default_rng(seed + 1)
    X, original = correlated(n, width, seed), np.arange(n)
    original[n - times :] = np.arange(times)
    X[n - times :] = X[:times] + 0.05 * X.std(axis=0) * random.standard_normal((times, width))
    return X, original


@pytest.mark.parametrize(("n", "times"), [(300, 40), (300, 0), (5000, 200)])
def test_planted_copies_are_found_and_no_others(n, times):
    X, original = planted(n, times)
    found = find_near_copies(X, contents(n))
    np.testing.assert_array_equal(found.clusters, original)  # in one block of products, and in two


def test_most_images_may_be_copies_in_one_list_of_series():
    """Of sixteen objects eight frames each, in the order of the list, as of a video; classes alternate."""
    random = np.random.default_rng(3)
    objects = correlated(16)
    X = np.repeat(objects, 8, axis=0) + 0.1 * objects.std(axis=0) * random.standard_normal((128, 128)).astype(
        np.float32
    )
    found = find_near_copies(X, contents(128))
    np.testing.assert_array_equal(found.clusters, np.repeat(np.arange(0, 128, 8), 8))


@pytest.mark.parametrize("n", [20, 40, 80, 160, 320])
def test_copies_are_found_in_sets_with_fewer_images_than_features(n):
    """As many directions as images would put all of them at right angles, copies included."""
    X, original = planted(n, max(2, n // 10), width=512)
    np.testing.assert_array_equal(find_near_copies(X, contents(n)).clusters, original)


@pytest.mark.parametrize("n", [600, 1400])
def test_images_of_one_sort_are_no_near_copies(n):
    """Sorts of eight, as the dogs of a breed: far more alike than others, far less than copies, which are found among them."""
    random = np.random.default_rng(5)
    X = 0.7 * np.repeat(correlated(n // 8 + 1), 8, axis=0)[:n] + correlated(n, seed=1)
    X[-40:] = X[:40] + 0.15 * X.std(axis=0) * random.standard_normal((40, 128))
    original = np.r_[: n - 40, :40]
    np.testing.assert_array_equal(find_near_copies(X, contents(n)).clusters, original)


def test_byte_copies_share_a_cluster_whatever_their_features_and_join_others():
    X, original = planted(300, 1)
    sha256 = contents(300)
    sha256[[7, 299]] = sha256[100]
    expected = original.copy()
    expected[[7, 100]] = 0  # 299 is a near-copy of 0
    np.testing.assert_array_equal(find_near_copies(X, sha256).clusters, expected)


def test_the_nearest_is_looked_for_in_an_images_own_cluster():
    X, _ = planted(300, 40)
    found = find_near_copies(X, contents(300))
    images, likeness = found.nearest(np.array([0, 260, 100]), np.arange(300))
    assert images.tolist() == [260, 0, -1]
    expected = found.likeness.between(np.array([0]), np.array([260]))[0, 0]
    assert likeness[:2] == pytest.approx([expected] * 2) and likeness[0] >= THRESHOLD
    assert found.nearest(np.array([0]), np.arange(100))[0].tolist() == [-1]


def test_likeness_is_the_cosine_of_whitened_rows_less_what_is_usual_around_them():
    """By its definition; in so few rows an image's crowd is the twenty most like it."""
    X, _ = planted(100, 5)
    found = find_near_copies(X, contents(100)).likeness
    unit = whiten(X)
    cosines = unit @ unit.T - 9 * np.eye(100)
    crowd = np.sort(cosines, axis=1)[:, -20]
    expected = cosines - (crowd[:, None] + crowd) / 2
    rest = ~np.eye(100, dtype=bool)
    np.testing.assert_allclose(found.between(np.arange(100), np.arange(100))[rest], expected[rest], atol=1e-5)


def test_whitened_rows_are_those_of_principal_components():
    X = correlated(500).astype(np.float64)
    _, singular, components = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    variances = singular**2 / len(X)
    scores = (X - X.mean(axis=0)) @ components.T / np.sqrt(variances + variances.mean())
    expected = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    unit = whiten(X.astype(np.float32))
    np.testing.assert_allclose(unit @ unit.T, expected @ expected.T, atol=1e-4)


def test_a_stored_matrix_is_whitened_as_one_in_memory():
    X = correlated(500)
    stored = Stored(X.shape, lambda rows: X[rows], 64)
    np.testing.assert_allclose(np.abs(whiten(stored)), np.abs(whiten(X)), atol=1e-4)  # up to signs


def test_wide_features_are_projected_and_copies_still_found():
    X, original = planted(200, 20, width=2500)
    found = find_near_copies(X, contents(200))
    assert found.likeness.unit.shape == (200, 199)
    np.testing.assert_array_equal(found.clusters, original)


def in_series(n, seed=0):
    """Return features of n images in series of eight, and their classes, of which each series has both."""
    random = np.random.default_rng(seed)
    shared = np.repeat(correlated(n // 8, seed=seed), 8, axis=0)
    return (shared + 0.5 * random.standard_normal(shared.shape)).astype(np.float32), random.integers(0, 2, n)


def series_of(X, labels, paths, sha256=None):
    return find_series(X, 1, labels, contents(len(X)) if sha256 is None else sha256, paths)


def test_series_are_found_by_the_order_of_paths_and_not_by_that_of_rows():
    X, labels = in_series(400)
    paths = [f"{'ab'[label]}/{number}.jpg" for number, label in enumerate(labels)]  # numbers without leading zeros
    found = series_of(X, labels, paths)
    assert found.found and found.share > 0.9 and found.chance < 0.06
    order = sorted(range(400), key=lambda row: paths[row])  # 10.jpg before 2.jpg
    assert series_of(X[order], labels[order], [paths[row] for row in order]) == found
    random = np.random.default_rng(0).permutation(400)
    assert not series_of(X[random], labels[random], [f"{number:03d}.jpg" for number in range(400)]).found


def test_classes_that_stand_together_are_no_series():
    """In a folder per class all neighbours in the list are of one class, and alike."""
    X, labels = correlated(400), np.repeat([0, 1], 200)
    X[labels == 1] += 20
    assert not series_of(X, labels, [f"{number:03d}.jpg" for number in range(400)]).found


def test_copies_are_no_series():
    X, labels = np.repeat(correlated(200), 2, axis=0), np.zeros(400, int)
    paths = [f"{number:03d}.jpg" for number in range(400)]
    assert series_of(X, labels, paths).found
    assert not series_of(X, labels, paths, np.repeat(contents(200), 2, axis=0)).found


@pytest.mark.parametrize("n", [2, 4, 30])
def test_chance_is_the_share_of_all_pairs_that_stand_together(n):
    X, paths = correlated(n), [f"{number:03d}.jpg" for number in range(n)]
    near = [abs(one - two) <= PLACES for one, two in itertools.combinations(range(n), 2)]
    assert series_of(X, np.zeros(n, int), paths).chance == pytest.approx(np.mean(near))


def test_p_values_of_random_orders_are_not_too_small():
    """At most 5 % of 100 orders below 0.05, but for what 100 draws leave open (binomial, 99.9 %: 13)."""
    X, labels = correlated(60), np.repeat([0, 1], 30)
    paths = [f"{number:03d}.jpg" for number in range(60)]
    random = np.random.default_rng(0)
    found = [series_of(X[order], labels, paths) for order in (random.permutation(60) for _ in range(100))]
    assert sum(each.p_value < 0.05 for each in found) <= 13 and not any(each.found for each in found)


def test_of_a_long_list_stretches_are_read():
    X, labels = in_series(8000)
    read = []

    def rows_of(rows):
        read.extend(rows.tolist())
        return X[rows]

    found = series_of(Stored(X.shape, rows_of, 8000), labels, [f"{number:05d}.jpg" for number in range(8000)])
    assert found.found and len(read) == len(set(read)) == 5000


def test_images_of_a_class_each_are_no_series():
    found = series_of(correlated(3), np.arange(3), ["a", "b", "c"])
    assert not found.found and found.p_value == 1
