"""What the command line accepts. Nothing heavy is imported, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import logging
from typing import Any


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; a command's name comes out as ``command``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Image classifiers from small labelled sets: cache a frozen base's features once, train heads in seconds.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_extract(commands)
    _add_train_head(commands)
    _add_compare(commands)
    _add_probe(commands)
    _add_report(commands)
    _add_lecture(commands)
    _add_layers(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_inspect(commands)
    _add_verify(commands)
    return parser


def _add(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example: {example}"
    )
    command.set_defaults(command=name)
    command.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    command.set_defaults(level=logging.INFO)
    told = command.add_mutually_exclusive_group()
    told.add_argument(
        "--quiet", action="store_const", const=logging.WARNING, dest="level", help="print warnings and errors alone"
    )
    told.add_argument(
        "--verbose",
        action="store_const",
        const=logging.DEBUG,
        dest="level",
        help="print more, with the time of each line",
    )
    return command


def _add_extract(commands: Any) -> None:
    command = _add(
        commands, "extract", "run a frozen base once over labelled images and keep its features",
        "python -m pipeline extract --data photos --backbone vgg16 --out cache/photos.h5",
    )  # fmt: skip
    _add_images(command.add_argument_group("images").add_argument)
    _add_base(command.add_argument_group("base").add_argument)
    _add_store(command.add_argument_group("store").add_argument)
    _add_machines(command.add_argument_group("more machines").add_argument)


def _add_images(add: Any) -> None:
    add(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder (split/class/file or class/file), CSV (path,label[,split]), elpv or cifar10",
    )
    add("--limit", type=int, metavar="N", help="a stratified subset of N images")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="of splits that the source does not give, of --limit and --augment lecture (default 0)",
    )
    add(
        "--resize",
        choices=("bilinear", "nearest", "box", "bicubic", "lanczos"),
        help="resize rule (default bilinear, antialiased)",
    )
    add("--views", type=int, metavar="N", help="rows an image: itself and N - 1 augmented copies (default 1)")
    add("--augment", choices=("none", "hflip", "dihedral", "lecture"), help="what the copies are (default none)")
    add(
        "--max-skipped",
        type=float,
        metavar="FRACTION",
        help="stop when more files than this cannot be used (default 0.05, and 5 files)",
    )
    add("--retry-skipped", action="store_true", default=None, help="try again files that could not be used before")
    add("--allow-missing-classes", action="store_true", help="accept classes without a readable image in some split")


def _add_base(add: Any) -> None:
    add(
        "--backbone",
        metavar="NAME",
        help="vgg16 (default) or another of README's table, or FILE.keras, a model of your own",
    )
    add("--layers", metavar="L[,L]", help="layers by name or index (default: the last feature map)")
    add(
        "--image-size",
        type=int,
        metavar="PX",
        help="side of the square that images are resized to (default: the base's)",
    )
    add(
        "--preprocess", choices=("imagenet", "rescale", "none"),
        help="the base's own, division by 255, or RGB as it is (default: the base's own; none for FILE.keras)",
    )  # fmt: skip
    add("--weights", metavar="FILE", help="file of weights instead of finding ImageNet's")
    add("--weights-sha256", metavar="HEX", help="accept weights with this SHA-256")
    add(
        "--engine",
        choices=("auto", "tensorflow", "tensorflow-xla", "tensorflow-f16", "tensorflow-f16-xla", "openvino", "mnn", "numba", "openvino-bf16"),
        help="what runs the base (default auto: the fastest of those that are installed and for this device)",
    )  # fmt: skip
    add("--batch-size", type=int, metavar="N", help="images a batch (default 16; found by trial on a GPU)")


def _add_store(add: Any) -> None:
    add("--out", metavar="NAME.h5", help="the store (default cache/SOURCE-BACKBONE.h5)")
    add(
        "--pool",
        choices=("none", "avg", "max", "avg+max"),
        help="pool maps over space before storing them (default none, if they fit)",
    )
    add("--dtype", choices=("float16", "float32"), help="stored precision (default float16)")
    add(
        "--compression",
        choices=("lz4", "zstd", "gzip", "none"),
        help="of values (default lz4; plain h5py reads gzip and none)",
    )
    add(
        "--layout",
        choices=("file", "parts"),
        help="one file, or parts that stay with an index over them (default file)",
    )


def _add_machines(add: Any) -> None:
    _add_cluster(add)
    add("--plan-only", action="store_true", help="tell what it would cost on 1, 8 and 64 workers, and compute no store")
    add("--images", type=int, metavar="N", help="with --plan-only: for so many images like the source's")
    add("--rate", type=float, metavar="R", help="with --plan-only: images/s of a worker (default: measured here)")
    add("--part-images", type=int, metavar="N", help="images of a part on a cluster at most (default 512)")


def _add_cluster(add: Any) -> None:
    add("--cluster", metavar="WHERE", help="who computes: a Dask scheduler, tcp://host:8786, or local:N processes here")
    add("--skip-unfit", action="store_true", help="go on without workers that are not fit; each is named")


def _add_train_head(commands: Any) -> None:
    command = _add(
        commands, "train-head", "train one head on a store and save the run",
        "python -m pipeline train-head --store cache/elpv-vgg16.h5 --head logistic",
    )  # fmt: skip
    command.add_argument(
        "--head",
        metavar="NAME",
        help="one of README's table, or a scikit-learn classifier's dotted name (default logistic)",
    )
    command.add_argument(
        "--tensorboard", metavar="FOLDER", help="write the learning curves of a Dense head for TensorBoard"
    )
    _add_stage_two(command)
    _add_cluster(command.add_argument)
    command.add_argument(
        "--joblib",
        action="store_true",
        help="pickle a scikit-learn head that cannot be saved safely; for yourself alone",
    )


def _add_predict(commands: Any) -> None:
    command = _add(
        commands, "predict", "tell the classes of new images by a trained head",
        "python -m pipeline predict --run runs/photos-vgg16-logistic photos/new 'more/*.jpg'",
    )  # fmt: skip
    _add_run(command)
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders, patterns, or - for a list of paths on standard input",
    )


def _add_export(commands: Any) -> None:
    command = _add(
        commands, "export", "make one model of base and head, from pixels to probabilities",
        "python -m pipeline export --run runs/photos-vgg16-logistic --out photos.keras",
    )  # fmt: skip
    _add_run(command)
    command.add_argument(
        "--out", required=True, metavar="NAME", help="NAME.keras, NAME.onnx, or a folder for TensorFlow's SavedModel"
    )
    command.add_argument(
        "--rows", type=int, metavar="N", help="stored images to compare the model with the run on (default 100; 0: all)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace a model of this name")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", required=True, metavar="RUN", help="the folder of a trained head")
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="where the base's weights, or FILE.keras, lie today (default: where the run says)",
    )
    command.add_argument("--joblib", action="store_true", help="load a pickled head, which can run any code: your own")


def _add_compare(commands: Any) -> None:
    command = _add(
        commands, "compare", "train many heads on the same rows and compare them",
        "python -m pipeline compare --store cache/elpv-vgg16.h5 --heads logistic,rbf-svm --repeats 5",
    )  # fmt: skip
    command.add_argument("--heads", metavar="all|A,B", help="which heads (default all)")
    command.add_argument("--repeats", type=int, metavar="N", help="draw N stratified splits instead of the store's own")
    _add_fresh(command)
    _add_stage_two(command)


def _add_fresh(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fresh", action="store_true", help="fit again what earlier runs have fitted")
    _add_cluster(command.add_argument)


def _add_stage_two(command: argparse.ArgumentParser) -> None:
    command.add_argument("--store", required=True, metavar="STORE.h5")
    command.add_argument("--views", type=int, metavar="N", help="use the first N views of each image (default: all)")
    command.add_argument(
        "--layer",
        metavar="L[,L]",
        help="stored layers (default: the last; probe: all); train-head and compare join them",
    )
    command.add_argument(
        "--pool", choices=("flatten", "avg", "max", "avg+max"), help="maps to vectors (default: the head's own)"
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="of the head's random start, and of drawn splits (default 0)"
    )
    command.add_argument(
        "--select",
        choices=("cv", "val"),
        help="choose settings by cross-validation within train and val, or by a look at val (default cv)",
    )
    command.add_argument(
        "--set",
        dest="settings",
        action=_Setting,
        metavar="NAME=V[,V]",
        help="try these values of a head's setting instead of the usual ones (README lists them); may be repeated",
    )
    command.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="what features may take; of larger ones a part at a time is read (default: half of the machine's)",
    )
    _add_results(command)


class _Setting(argparse.Action):
    """Collects ``NAME=V,V`` into a dict of name to values: numbers where they are such, else strings."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        name, equals, values = given.partition("=")
        if not (name and equals and values):
            parser.error(f"--set must be like C=1,10; got {given!r}")
        held = getattr(namespace, self.dest) or {}
        setattr(namespace, self.dest, {**held, name: tuple(_value(each) for each in values.split(","))})


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)


def _add_results(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", metavar="FOLDER", help="folder for the results (default below runs/)")
    command.add_argument("--overwrite", action="store_true", help="replace earlier results")


def _add_probe(commands: Any) -> None:
    command = _add(
        commands, "probe", "show accuracy layer by layer, and which layer to take",
        "python -m pipeline probe --store cache/elpv-layers.h5 --repeats 5",
    )  # fmt: skip
    _add_stage_two(command)
    _add_fresh(command)
    command.add_argument(
        "--repeats", type=int, metavar="N", help="stratified splits to draw (default 5; 1: the store's own)"
    )


def _add_report(commands: Any) -> None:
    command = _add(
        commands, "report", "write one self-contained HTML page about a comparison or a trained head",
        "python -m pipeline report --run runs/elpv-vgg16-compare",
    )  # fmt: skip
    command.add_argument("--run", required=True, metavar="FOLDER", help="what compare or train-head wrote")
    command.add_argument("--out", metavar="FILE.html", help="the page (default: report.html in the folder)")


def _add_lecture(commands: Any) -> None:
    command = _add(
        commands, "lecture", "run the lecture's models as they were, and corrected",
        "python -m pipeline lecture --data photos",
    )  # fmt: skip
    command.add_argument("--data", required=True, metavar="SOURCE", help="see extract")
    command.add_argument("--limit", type=int, metavar="N", help="a stratified subset of N images")
    command.add_argument(
        "--repeats", type=int, metavar="N", help="draw N stratified splits instead of the source's own"
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="of the heads' random start, and of drawn splits (default 0)"
    )
    _add_results(command)


def _add_layers(commands: Any) -> None:
    command = _add(
        commands, "layers", "list a backbone's layers, their shapes and bytes an image",
        "python -m pipeline layers vgg16 --image-size 96",
    )  # fmt: skip
    command.add_argument("backbone", metavar="NAME", help="see extract --backbone")
    command.add_argument("--image-size", type=int, metavar="PX", help="side of the images (default: the base's)")


def _add_inspect(commands: Any) -> None:
    command = _add(commands, "inspect", "tell what a store holds", "python -m pipeline inspect cache/elpv-vgg16.h5")
    command.add_argument("store", metavar="STORE.h5")


def _add_verify(commands: Any) -> None:
    command = _add(
        commands, "verify", "check a store's checksums, its source, and some rows computed again",
        "python -m pipeline verify cache/elpv-vgg16.h5 --rows 32",
    )  # fmt: skip
    command.add_argument("store", metavar="STORE.h5")
    command.add_argument("--rows", type=int, metavar="N", help="random rows to compute again (default 16; 0: none)")
    command.add_argument("--seed", type=int, metavar="N", help="of the choice of rows (default 0)")
