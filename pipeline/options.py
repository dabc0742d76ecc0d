"""Options of the public functions of stage two; see `features.options`."""

# Not postponed: the command line reads these annotations.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from features.options import OPTIONS_OF, Flag, ReadPool, flags_of

# Of ``HEADS``, which imports scikit-learn, and which a test compares with these.
HEAD_NAMES = (
    "dense", "mlp", "logistic", "linear-svm", "rbf-svm", "vote", "ridge", "lda", "knn", "nearest-mean", "hist-gradient-boosting",
    "majority",
)  # fmt: skip
Select = Literal["cv", "val"]
SELECT: Select = "cv"  # the default
MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "log_loss", "mcc", "cohen_kappa"
]
METRIC: MetricName = "accuracy"  # the default
Threshold = Literal["accuracy", "balanced_accuracy", "macro_f1", "mcc", "cohen_kappa"]  # metrics of predicted classes
FEATURES, HEAD, DECISION, MACHINES, RESULTS = "features", "head", "decision", "more machines", "results"


class TrainingOptions(TypedDict, total=False):
    """Options of all commands that fit heads to a store."""

    layer: Annotated[
        Sequence[str] | None,
        Flag("stored layers (default: the last; probe: all); train-head and compare join them", "L[,L]", FEATURES),
    ]
    pool: Annotated[
        ReadPool | None,
        Flag("maps to vectors (default: the head's own)", group=FEATURES),
    ]
    views: Annotated[int | None, Flag("use the first N views of each image (default: all)", "N", FEATURES)]
    memory: Annotated[
        float | None,
        Flag(
            "memory for features; larger ones are read in parts (default: half of the machine's)",
            "GB",
            FEATURES,
        ),
    ]
    seed: Annotated[int, Flag("seed of the head's random start and of drawn splits (default 0)", "N", HEAD)]
    select: Annotated[
        Select,
        Flag(
            "choose settings by cross-validation within train and val (cv), or by fitting on train and scoring on val "
            f"(val) (default {SELECT})",
            group=HEAD,
        ),
    ]
    metric: Annotated[
        MetricName, Flag(f"what settings are chosen and heads are ranked by (default {METRIC})", group=HEAD)
    ]
    group: Annotated[
        str | None,
        Flag(
            "column whose equal texts stay on one side of splits and folds, or near-copies (default: the one that the store "
            "was extracted with)",
            "COLUMN",
            HEAD,
        ),
    ]
    settings: Annotated[
        Mapping[str, tuple[Any, ...]],
        Flag(
            "try these values of a head's setting instead of the usual ones (see pipeline/README.md); may be repeated",
            "NAME=V[,V]",
            HEAD,
            "set",
        ),
    ]
    cluster: Annotated[
        str | None,
        Flag("who computes: a Dask scheduler, tcp://host:8786, or local:N processes here", "WHERE", MACHINES),
    ]
    skip_unfit: Annotated[bool, Flag("go on without workers that are not fit; each is named", group=MACHINES)]
    out: Annotated[str | Path | None, Flag("folder for the results (default below runs/)", "FOLDER", RESULTS)]
    overwrite: Annotated[bool, Flag("replace earlier results", group=RESULTS)]


class CorrectedOptions(TrainingOptions, total=False):
    """Options of commands that apply corrected labels."""

    corrections: Annotated[
        str | Path | None,
        Flag(
            "change labels and drop images first, as a CSV of a report's page says (those of test only with --corrections-test), and show what it changes",
            "FILE",
            HEAD,
        ),
    ]
    corrections_test: Annotated[bool, Flag("correct the images of test, too", group=HEAD)]


class CompareOptions(CorrectedOptions, total=False):
    """Options of `pipeline.compare`."""

    repeats: Annotated[int, Flag("draw N stratified splits instead of the store's own", "N", HEAD)]
    exclude: Annotated[Sequence[str] | None, Flag("heads that are left out", "A[,B]", HEAD)]
    fresh: Annotated[bool, Flag("fit again what earlier runs have fitted", group=HEAD)]


class BasesOptions(TrainingOptions, total=False):
    """Options of `pipeline.compare_bases`."""

    repeats: Annotated[int, Flag("draw N stratified splits instead of the store's own", "N", HEAD)]
    fresh: Annotated[bool, Flag("fit again what earlier runs have fitted", group=HEAD)]


class ProbeOptions(TrainingOptions, total=False):
    """Options of `pipeline.probe`."""

    repeats: Annotated[int, Flag("stratified splits to draw (default 5; 1: the store's own)", "N", HEAD)]
    fresh: Annotated[bool, Flag("fit again what earlier runs have fitted", group=HEAD)]


class BudgetOptions(TrainingOptions, total=False):
    """Options of `pipeline.budget`."""

    draws: Annotated[
        int, Flag("draw nested subsets of each split N times (default 2; of the store's own 5)", "N", HEAD)
    ]
    repeats: Annotated[
        int, Flag("tell the mean over N drawn splits (default 5; 1, and if test was given: the store's own)", "N", HEAD)
    ]
    fresh: Annotated[bool, Flag("fit again what earlier runs have fitted", group=HEAD)]


class TrainHeadOptions(CorrectedOptions, total=False):
    """Options of `pipeline.train_head`."""

    threshold: Annotated[
        Threshold | None,
        Flag(
            "of two classes, decide from the probability on that is best by this metric on out-of-fold probabilities",
            group=DECISION,
        ),
    ]
    cost: Annotated[
        str | None,
        Flag(
            "the same by cost: an A that is predicted as B costs N times the opposite mistake",
            "A:B=N",
            DECISION,
        ),
    ]
    sensitivity: Annotated[
        float | None, Flag("the same, so that this share of the positive class is predicted as it", "SHARE", DECISION)
    ]
    specificity: Annotated[
        float | None, Flag("the same, so that this share of the other class is predicted as it", "SHARE", DECISION)
    ]
    positive: Annotated[str | None, Flag("which class is positive (default: the rarer one)", "CLASS", DECISION)]
    conformal: Annotated[
        float | None,
        Flag(
            "also give the set of classes that holds the true one with this probability, whichever class it is",
            "SHARE",
            DECISION,
        ),
    ]
    tensorboard: Annotated[
        str | Path | None, Flag("write the learning curves of a Dense head for TensorBoard", "FOLDER", RESULTS)
    ]
    joblib: Annotated[
        bool,
        Flag("pickle a scikit-learn head that cannot be saved safely; load it only if it is your own", group=RESULTS),
    ]


class AuditOptions(TrainingOptions, total=False):
    """Options of `pipeline.audit`."""

    head: Annotated[str, Flag("the head whose figures are shown (default logistic)", "NAME", HEAD)]
    run: Annotated[
        str | Path | None,
        Flag("show the figures of what compare or train-head wrote there, instead of training a head", "FOLDER", HEAD),
    ]
    repeats: Annotated[
        int, Flag("draw the folds that tell how optimistic the split is N times (default 1; 0: not at all)", "N", HEAD)
    ]
    fresh: Annotated[bool, Flag("fit again what earlier runs have fitted", group=HEAD)]


class PredictOptions(TypedDict, total=False):
    """Options of `pipeline.predict`."""

    weights: Annotated[
        str | Path | None,
        Flag("where the base's weights, or FILE.keras, lie today (default: where the run says)", "FILE"),
    ]
    joblib: Annotated[bool, Flag("load a pickled head, which can run any code: your own")]
    max_pixels: Annotated[int, Flag("read no larger images (default 250000000)", "N")]


class NextOptions(PredictOptions, total=False):
    """Options of `pipeline.label_next`."""

    out: Annotated[str | Path | None, Flag("folder for the results (default below runs/)", "FOLDER", RESULTS)]
    overwrite: Annotated[bool, Flag("replace earlier results", group=RESULTS)]


class ReplayOptions(TypedDict, total=False):
    """Options of `pipeline.replay_queue`."""

    draws: Annotated[int, Flag("with --replay: first labels that are drawn (default 10)", "N", "replay")]
    seed: Annotated[int, Flag("with --replay: seed of these draws (default 0)", "N", "replay")]


class ExportOptions(PredictOptions, total=False):
    """Options of `pipeline.export`."""

    rows: Annotated[int, Flag("stored images to compare the model with the run on (default 100; 0: all)", "N")]
    novelty: Annotated[bool, Flag("a further output: how unlike all training images an image is")]
    overwrite: Annotated[bool, Flag("replace a model of this name")]


class ServeOptions(PredictOptions, total=False):
    """Options of `pipeline.serve`."""

    host: Annotated[str, Flag("address to listen on (default 127.0.0.1: this machine alone)", "HOST")]
    port: Annotated[int, Flag("port to listen on (default 8765)", "N")]


class ReportOptions(TypedDict, total=False):
    """Options of `pipeline.report`."""

    out: Annotated[str | Path | None, Flag("the page (default: report.html in the folder)", "FILE.html")]
    points: Annotated[
        int,
        Flag(
            "images on the map (default 2000, at most 20000; of more than 2000, t-SNE places 2000 and the others go beside their nearest)",
            "N",
        ),
    ]


class LectureOptions(TypedDict, total=False):
    """Options of the lecture."""

    limit: Annotated[int | None, Flag("a stratified subset of N images", "N")]
    max_pixels: Annotated[int, Flag("read no larger images (default 250000000)", "N")]
    repeats: Annotated[int, Flag("draw N stratified splits instead of the source's own", "N")]
    seed: Annotated[int, Flag("seed of the heads' random start and of drawn splits (default 0)", "N")]
    out: Annotated[str | Path | None, Flag("folder for the results (default below runs/)", "FOLDER")]
    overwrite: Annotated[bool, Flag("replace earlier results")]


def keep_options(given: Mapping[str, Any], of: type) -> dict[str, Any]:
    """Return the given options that the next command also has, except for where results go."""
    own = flags_of(of).keys() - {"out", "overwrite"}
    return {name: value for name, value in given.items() if name in own}


OPTIONS_OF.update(
    audit=AuditOptions,
    budget=BudgetOptions,
    compare=CompareOptions,
    compare_bases=BasesOptions,
    probe=ProbeOptions,
    train_head=TrainHeadOptions,
    predict=PredictOptions,
    label_next=NextOptions,
    replay_queue=ReplayOptions,
    export=ExportOptions,
    report=ReportOptions,
    serve=ServeOptions,
    lecture=LectureOptions,
)
