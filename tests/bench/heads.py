"""Stage two against what people do now, on the first 2,000 images of a store of whole maps, alternating in one run.

    python tests/bench/heads.py --store cache/elpv-vgg16.h5 --rounds 3

Prints a Markdown table: seconds, and the ratio to ours within each round.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVC

from features import FeatureStore
from features.runtime.keras_runtime import import_keras
from pipeline.data.scaling import measure_scale
from pipeline.data.training_data import Features, Part, Sample
from pipeline.heads.dense.config import Recipe, Schedule
from pipeline.heads.dense.search import train_heads
from pipeline.heads.logistic.search import Logistic, LogisticSearch
from pipeline.heads.svm.search import SvmSearch

C = (1.0, 10.0, 100.0, 1000.0, 3000.0)
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose name has this in it")
    options = parser.parse_args()
    with FeatureStore(options.store) as store:
        X = store.read(pool="flatten", rows=np.arange(min(options.rows, len(store))))
        y = store.rows.labels[: len(X)].astype(np.int64)
    ten = (np.random.default_rng(1).permutation(len(X)) % 5) * 2 + y  # ten classes, of which the second half is noise
    pairs = {
        "lecture's head, 30 epochs": (dense(X, y, 1, options.epochs), keras_fit(X, y, options.epochs)),
        "8 learning rates, against one": (dense(X, y, 1, options.epochs), dense(X, y, 8, options.epochs)),
        "logistic, 5 C x 5 folds": (search(LogisticSearch, X, y), grid_search(X, y, LogisticRegression(max_iter=1000))),
        "logistic, ten classes": (
            search(LogisticSearch, X, ten),
            grid_search(X, ten, LogisticRegression(max_iter=1000)),
        ),
        "logistic, one fit, scikit-learn's to 1e-10": agreement(X, y),
        "linear SVM, 5 C x 5 folds": (search(SvmSearch, X, y), grid_search(X, y, SVC(kernel="linear"))),
    }
    print(f"{len(X)} x {X.shape[1]} features, {options.rounds} rounds\n")
    print("| what | ours s | theirs s | ratio: median [min, max] | ours | theirs |\n|---|---|---|---|---|---|")
    for name, (ours, theirs) in ((name, pair) for name, pair in pairs.items() if options.only in name):
        taken, told = [], ("", "")
        for _ in range(options.rounds):
            (one, mine), (other, yours) = clock(ours), clock(theirs)
            taken.append((one, other))
            told = mine, yours
        ratios = sorted(other / one for one, other in taken)
        one, other = np.median(taken, axis=0)
        middle = float(np.median(ratios))
        print(
            f"| {name} | {one:.1f} | {other:.1f} | {middle:.1f} [{ratios[0]:.1f}, {ratios[-1]:.1f}] | {told[0]} | {told[1]} |",
            flush=True,
        )


def clock(run: Callable[[], str]) -> tuple[float, str]:
    """Return the seconds of a run, and what came of it."""
    started = time.perf_counter()
    told = run()
    return time.perf_counter() - started, told


def dense(X: np.ndarray, y: np.ndarray, heads: int, epochs: int) -> Callable[[], str]:
    """Train the lecture's head, or as many as there are learning rates; the graph's making is in the time."""
    recipes = [Recipe(learning_rate=1e-3 * 2 ** (1 - number)) for number in range(heads)]

    def run() -> str:
        trained = train_heads(recipes, Schedule(epochs=epochs), X, y, np.arange(len(X)))
        return f"training accuracy {max(each.history['accuracy'][-1] for each in trained):.3f}"

    return run


def keras_fit(X: np.ndarray, y: np.ndarray, epochs: int) -> Callable[[], str]:
    """Train the lecture's head by `model.fit`."""
    keras = import_keras()
    scaled = X / np.sqrt(np.mean(np.square(X)))

    def run() -> str:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(10, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
        model = keras.Sequential([keras.Input((X.shape[1],)), *layers])
        model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
        history = model.fit(scaled, y, 20, epochs=epochs, verbose=0).history
        return f"training accuracy {history['accuracy'][-1]:.3f}"

    return run


def sample(X: np.ndarray, y: np.ndarray) -> Sample:
    folds = np.random.default_rng(0).permutation(len(X)) % FOLDS
    return Sample(Features(X, (X.shape[1],), 1, (Part("layer", "flatten"),)), y, folds == 0, folds)


def search(kind: type[LogisticSearch] | type[SvmSearch], X: np.ndarray, y: np.ndarray) -> Callable[[], str]:
    """Choose C by ours and fit with it."""

    def run() -> str:
        those = sample(X, y)
        ours = kind(those, {"scale": ("layer",), "C": C})
        choice = ours.choose(those.pairs("cv"))
        ours.fit(choice.settings, those.everything)
        return f"C {choice.settings['C']:g}"

    return run


def agreement(X: np.ndarray, y: np.ndarray, cost: float = 100.0) -> tuple[Callable[[], str], Callable[[], str]]:
    """Fit once by both, scikit-learn to a tight tolerance, and tell objectives and how far decision values differ."""
    scale = measure_scale(X, "layer", (X.shape[1],))
    scaled = (X / scale).astype(np.float64)
    decided: list[np.ndarray] = []

    def tell(scores: np.ndarray, weights: np.ndarray) -> str:
        objective = cost * np.logaddexp(0, np.where(y == 1, -scores, scores)).sum() + np.square(weights).sum() / 2
        decided.append(scores)
        return f"objective {objective:.9g}"

    def ours() -> str:
        head = Logistic(cost).fit(X, y)
        return tell(head.decision_function(X).astype(np.float64), head.coef_[:, 0] * scale)

    def theirs() -> str:
        head = LogisticRegression(C=cost, tol=1e-10, max_iter=100_000).fit(scaled, y)
        told = tell(head.decision_function(scaled), head.coef_[0])
        return f"{told}; decision values differ by at most {np.abs(decided[-1] - decided[-2]).max():.1e}"

    return ours, theirs


def grid_search(X: np.ndarray, y: np.ndarray, estimator: LogisticRegression | SVC) -> Callable[[], str]:
    """Search by scikit-learn on the scaled matrix, on the same folds."""
    scaled = X / measure_scale(X, "layer", (X.shape[1],))

    def run() -> str:
        search = GridSearchCV(estimator, {"C": C}, cv=PredefinedSplit(sample(X, y).folds), n_jobs=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search.fit(scaled, y)
        return f"C {search.best_params_['C']:g}"

    return run


if __name__ == "__main__":
    main()
