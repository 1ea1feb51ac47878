"""Make the scales that int8 needs from sample pictures, and write them into a copy of a weights file.

The tensors are copied byte for byte. Some hundred faces like those that will come are enough; a picture that cannot be
read is reported and passed over.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .paths import Picture, find_pictures
from .predict import failed_summary, reason
from .progress import Progress
from .usage import (
    UsageError,
    add_detector_arguments,
    add_threads_argument,
    add_weights_argument,
    load_analyzer,
    positive,
    usage_errors,
    weights_path,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..formats.deviation import Deviation
    from ..forward import FastForward
    from ..photo import FaceAnalyzer

_FEW = 32  # faces below which the extremes of a value are mostly chance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="picture, or folder of pictures")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="weights file to write")
    parser.add_argument("--images", type=positive, default=512, metavar="N", help="faces at most (default: 512)")
    add_weights_argument(parser)
    add_threads_argument(parser)
    add_detector_arguments(parser)
    parser.set_defaults(device="cpu", dtype=None)  # of the analyzer that finds the faces


def run(arguments: argparse.Namespace) -> int:
    from ..formats.dtypes import INT8_KEY, with_int8_ranges
    from ..forward import FastForward
    from ..weights import copy_weights, read_weights

    pictures = find_pictures(arguments.paths)
    if arguments.out.resolve() in {picture.path.resolve() for picture in pictures}:
        raise UsageError(f"--out {arguments.out} would overwrite a picture that is read: give another file")
    if arguments.out.is_dir() or not arguments.out.absolute().parent.is_dir():  # before the work, not after it
        raise UsageError(f"--out {arguments.out} is a folder, or is in none that exists")
    weights = weights_path(arguments)
    analyzer = load_analyzer(arguments, ["embedding"])
    with usage_errors():
        exact = FastForward.load(weights, threads=arguments.threads)

    crops, failed = _crops(analyzer, pictures, arguments.images, arguments.crops)
    if not len(crops):
        print("faceattr quantize: no face found: nothing to make scales from", file=sys.stderr)
        return 1
    with Progress(len(crops), "faces") as progress:
        isa = os.environ.get("FACEATTR_ISA", "")
        scaled = with_int8_ranges(
            read_weights(weights), crops, exact.threads, isa, lambda done: progress.show(done, "making scales")
        )
    int8 = FastForward(scaled, dtype="int8", threads=arguments.threads)
    with usage_errors():
        copy_weights(weights, arguments.out, {INT8_KEY: scaled.metadata[INT8_KEY]})
    print(f"{arguments.out}: scales from {len(crops)} faces")
    _print(_compare(int8, exact, crops))
    if len(crops) < _FEW:
        print(f"faceattr quantize: {len(crops)} faces are few: some hundred give better scales", file=sys.stderr)
    if failed:
        print(f"faceattr quantize: {failed_summary(failed, len(pictures))}", file=sys.stderr)
    return 1 if failed else 0


def _crops(
    analyzer: FaceAnalyzer, pictures: Sequence[Picture], most: int, cropped: bool
) -> tuple[NDArray[np.uint8], list[str]]:
    """At most ``most`` faces, from all over the pictures, and the paths of pictures that could not be read."""
    import numpy as np

    from ..photo import fit_square, load_image

    size = analyzer.template.size
    crops, failed = [np.empty((0, size, size, 3), np.uint8)], []
    found = 0
    with Progress(len(pictures), "pictures") as progress:
        # A folder often holds alike pictures in a row: any number of faces is to be a fair sample.
        for i in np.random.default_rng(0).permutation(len(pictures)):
            path = pictures[i].path
            try:
                faces = fit_square(load_image(path), size)[None] if cropped else analyzer.crops(path)
            except Exception as error:  # whatever it is, it concerns this picture alone
                progress.print(f"{path}: {reason(error, path)}", sys.stderr)
                failed.append(str(path))
            else:
                crops.append(faces[: most - found])
                found += len(crops[-1])
            progress.step()
            if found == most:
                break
    return np.concatenate(crops), failed


def _compare(int8: FastForward, exact: FastForward, crops: NDArray[np.uint8]) -> dict[str, Deviation]:
    from ..formats.deviation import deviations

    return deviations(exact.spec, int8(crops), exact(crops))


def _print(found: dict[str, Deviation]) -> None:
    """Agreement, and no answer: what a face is taken for is not this command's business."""
    width = max(map(len, found))
    print(f"int8 against float32 on these faces\n{'':{width}}  deviation  same answer")
    for name, deviation in found.items():
        same = "" if deviation.agreement is None else f"{deviation.agreement:11.1%}"
        print(f"{name:{width}}  {deviation.error:9.2%}  {same}".rstrip())
    worst = max(found, key=lambda name: found[name].error)
    print(f"worst: {worst}, {found[worst].error:.2%}")
