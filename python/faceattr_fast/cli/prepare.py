"""Find, align and pack the faces of a data set once, for training and measuring.

A picture that is damaged or missing is reported, passed over and counted. A run that was killed is continued by the
same command. Exit code 1: the set is there, and lacks pictures that were damaged or missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .progress import Progress
from .usage import UsageError, add_detector_arguments, add_threads_argument, names, positive, usage_errors

if TYPE_CHECKING:
    from ..training.sources import Source

_FORMATS = ("lfw", "utkface", "ferplus", "csv", "folder", "webdataset")
# Which formats an option is for; None: its default.
_ONLY_FOR = {
    "images": ("csv",),
    "column": ("csv", "webdataset"),
    "classes": ("csv", "folder", "webdataset"),
    "levels": ("folder",),
    "train_folds": ("lfw",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder, CSV file, or shards such as f-{000..9}.tar"
    )
    parser.add_argument("--format", required=True, choices=_FORMATS, help="what SOURCE is")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the packed set")
    parser.add_argument("--name", help="of the set (default: that of the source)")
    parser.add_argument("--terms", metavar="TEXT", help="under which the pictures may be used, for the record")
    parser.add_argument("--restart", action="store_true", help="begin anew what an interrupted run has left")

    which = parser.add_argument_group("which faces")
    which.add_argument("--min-images", type=positive, default=1, metavar="N", help="leave out people with fewer")
    which.add_argument("--exclude-people", type=Path, metavar="FILE", help="leave out these people: a name a line")
    which.add_argument("--single-face", action="store_true", help="leave out pictures with several faces")
    which.add_argument(
        "--min-face", type=float, default=0.0, metavar="SHARE",
        help="leave out faces whose box is smaller, as a share of the picture's shorter side",
    )  # fmt: skip
    add_detector_arguments(which)
    add_threads_argument(which)

    split = parser.add_argument_group("split")
    split.add_argument(
        "--split-by", default="auto",
        choices=("auto", "subject", "duplicates", "source", "train", "validation", "test"),
        help="default: auto, the source's own split, else by subject, else by groups of near-duplicates; "
        "train, validation, test: every face goes there",
    )  # fmt: skip
    split.add_argument("--test", type=float, default=0.1, metavar="N", help="faces, or a share below 1 (default: 0.1)")
    split.add_argument("--validation", type=float, default=0.0, metavar="N", help="the same (default: 0)")
    split.add_argument("--seed", type=int, default=0, help="default: 0")

    text = parser.add_argument_group("how to read the source")
    text.add_argument("--images", type=Path, metavar="DIR", help="csv: where pictures are (default: beside the file)")
    text.add_argument(
        "--column", type=_pair, action="append", metavar="NAME=COLUMN",
        help="csv, webdataset: the column of file, subject, split, age, birth, captured, gender, ethnicity, emotion, "
        "or of any other label; may be repeated",
    )  # fmt: skip
    text.add_argument(
        "--classes", type=_pair, action="append", metavar="LABEL=A,B,C",
        help="classes of a label beside the package's own, in this order; may be repeated",
    )  # fmt: skip
    text.add_argument(
        "--levels", metavar="A/B", help="folder: what subfolders name, such as subject, emotion or split/emotion "
        "(default: subject; '' for nothing)",
    )  # fmt: skip
    text.add_argument("--train-folds", type=names, metavar="1,2,…", help="lfw: folds to train on (default: 1,2,3,4,5)")


def run(arguments: argparse.Namespace) -> int:
    from ..photo import DetectorError
    from ..training.prepare import PrepareOptions, prepare

    progress = Progress(None, "pictures")

    def watch(done: int, total: int | None) -> None:
        progress.total = total
        progress.step(done)

    with usage_errors(DetectorError), progress:
        packed = prepare(
            _source(arguments),
            arguments.out,
            PrepareOptions(
                min_images=arguments.min_images,
                exclude_people=_people(arguments.exclude_people),
                single_face=arguments.single_face,
                min_face=arguments.min_face,
                detector=arguments.detector,
                detector_model=arguments.detector_model,
                crops=arguments.crops,
                split_by=arguments.split_by,
                test=arguments.test,
                validation=arguments.validation,
                seed=arguments.seed,
            ),
            restart=arguments.restart,
            threads=arguments.threads,
            report=lambda line: progress.print(line, sys.stderr),
            watch=watch,
        )
    print(f"wrote {packed.folder}: {len(packed)} faces, split {packed.info['split']}")
    return 1 if packed.info["skipped"].keys() & {"damaged", "missing"} else 0


def _source(arguments: argparse.Namespace) -> Source:
    from ..training import sources

    chosen = arguments.format
    for option, formats in _ONLY_FOR.items():
        if getattr(arguments, option) is not None and chosen not in formats:
            raise UsageError(f"--{option.replace('_', '-')} is for --format {' and '.join(formats)}, not for {chosen}")
    path: Path = arguments.source
    columns = dict(arguments.column or ())
    classes = {label: tuple(names(text)) for label, text in arguments.classes or ()}
    source: Source
    if chosen == "lfw":
        folds = arguments.train_folds or ("1", "2", "3", "4", "5")
        if not all(fold.isdecimal() for fold in folds):
            raise UsageError(f"--train-folds: expected numbers of folds, got {','.join(folds)}")
        source = sources.LFW(path, tuple(map(int, folds)))
    elif chosen == "utkface":
        source = sources.UTKFace(path)
    elif chosen == "ferplus":
        source = sources.FERPlus(path)
    elif chosen == "csv":
        source = sources.Table(path, arguments.images, columns, classes)
    elif chosen == "folder":
        levels = "subject" if arguments.levels is None else arguments.levels
        source = sources.Folder(path, tuple(level for level in levels.split("/") if level), classes)
    else:
        source = sources.Shards(path, columns, classes)
    source.name, source.terms = arguments.name or source.name, arguments.terms or source.terms
    return source


def _people(path: Path | None) -> frozenset[str]:
    """Names in a file, one a line; blank lines and those that begin with # do not count."""
    if path is None:
        return frozenset()
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _pair(text: str) -> tuple[str, str]:
    """An argparse type: ``a=b`` → (a, b)."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value
