"""Find the faces in pictures and say what the network makes of each.

A table, or with --json one object per picture and line. A picture that cannot be read is reported and passed over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from .output import open_output, replacing
from .paths import Picture, find_pictures
from .progress import Progress
from .usage import UsageError, add_analyzer_arguments, load_analyzer, names, usage_errors

if TYPE_CHECKING:
    from ..photo import Face, FaceAnalyzer, Failure
    from ..spec import HeadSpec

Result: TypeAlias = Union["list[Face]", "Failure"]

_CROPS_PER_CALL = 32
# What Pillow writes; an annotated picture of another format is a PNG.
_WRITABLE = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="picture, or folder of pictures")
    parser.add_argument("--json", action="store_true", help="JSON lines, one object per picture")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to standard output")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="also write the pictures with faces drawn in")
    parser.add_argument("--heads", type=names, metavar="A,B", help="results wanted (default: every one allowed)")
    parser.add_argument("--sensitive", action="store_true", help="also emotion and ethnicity; prints a notice")
    add_analyzer_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    pictures = find_pictures(arguments.paths)
    if arguments.out and arguments.out.resolve() in {picture.path.resolve() for picture in pictures}:
        raise UsageError(f"--out {arguments.out} would overwrite a picture that is read: give another file")
    targets = _annotated(pictures, arguments.annotate) if arguments.annotate else None
    analyzer = load_analyzer(arguments, arguments.heads, arguments.sensitive)
    as_json: bool = arguments.json
    table = _Table(pictures, [head for head in analyzer.fast.spec.heads if head.name in analyzer.fast.heads])
    with_embedding = arguments.heads is not None and "embedding" in arguments.heads
    failed: list[str] = []
    with open_output(arguments.out) as out, Progress(len(pictures), "pictures") as progress:
        if not as_json:
            progress.print(table.header(), out)
        results = _results(analyzer, pictures, arguments.crops)
        for i, (picture, result) in enumerate(zip(pictures, results, strict=True)):
            faces, error = (result, None) if isinstance(result, list) else (None, reason(result.error, picture.path))
            if targets and faces is not None:
                error = _write_annotated(picture.path, faces, targets[i])
            if error is not None:
                failed.append(str(picture.path))
            if as_json:
                progress.print(_json_line(picture.path, faces, error, with_embedding), out)
            else:
                for line in table.rows(picture.path, faces, error):
                    progress.print(line, out)
            progress.step()
    if failed:
        print(f"faceattr predict: {failed_summary(failed, len(pictures))}", file=sys.stderr)
    return 1 if failed else 0


def _results(analyzer: FaceAnalyzer, pictures: Sequence[Picture], crops: bool) -> Iterator[Result]:
    paths = [picture.path for picture in pictures]
    if not crops:
        yield from analyzer.stream(paths, on_error="record")
        return
    for start in range(0, len(paths), _CROPS_PER_CALL):
        yield from _crop_results(analyzer, paths[start : start + _CROPS_PER_CALL])


def _crop_results(analyzer: FaceAnalyzer, paths: Sequence[Path]) -> Iterator[Result]:
    from ..photo import Failure, fit_square, load_image

    crops, failures = [], {}
    for path in paths:
        try:
            crops.append(fit_square(load_image(path), analyzer.template.size))
        except Exception as error:  # whatever it is, it concerns this file alone
            failures[path] = Failure(str(path), error)
    faces = iter(analyzer.predict_crops(crops))
    for path in paths:
        yield failures[path] if path in failures else [next(faces)]


def failed_summary(failed: Sequence[str], total: int) -> str:
    """One line: how many, and the first of them by name."""
    return f"{len(failed)} of {total} failed: {', '.join(failed[:5])}{', …' if len(failed) > 5 else ''}"


def reason(error: Exception, path: Path) -> str:
    """What went wrong with a picture, on one line, without its path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.removeprefix(f"{path}: ").split()) or type(error).__name__


def _json_line(path: Path, faces: Sequence[Face] | None, error: str | None, with_embedding: bool) -> str:
    line: dict[str, Any] = {"file": str(path)}
    if faces is not None:
        line["faces"] = [face.to_dict(with_embedding) for face in faces]
    if error is not None:
        line["error"] = error
    return json.dumps(line)


class _Table:
    """Lines of one width, known before the first result."""

    def __init__(self, pictures: Sequence[Picture], heads: Sequence[HeadSpec]) -> None:
        self._heads = heads
        self._file = min(48, max(4, *(len(str(picture.path)) for picture in pictures)))
        self._widths = [max(len(head.name), *map(len, head.class_labels)) + len(" 100%") for head in heads]

    def header(self) -> str:
        cells = [f"{'file':{self._file}}", f"{'box':>21}"]
        for head, width in zip(self._heads, self._widths, strict=True):
            cells.append(f"{head.name:{width}}")
            cells += ["years"] if head.name == "age" else []
        return "  ".join(cells).rstrip()

    def rows(self, path: Path, faces: Sequence[Face] | None, error: str | None) -> Iterator[str]:
        file = f"{path!s:{self._file}}"
        for face in faces or ():
            yield "  ".join([file, f"{_box(face):>21}", *self._attributes(face)]).rstrip()
        if faces is not None and not faces:
            yield f"{file}  no face found"
        if error is not None:
            yield f"{file}  error: {error}"

    def _attributes(self, face: Face) -> Iterator[str]:
        for head, width in zip(self._heads, self._widths, strict=True):
            attribute = face.attributes[head.name]
            yield f"{'?' if attribute.label is None else f'{attribute.label} {attribute.score:.0%}':{width}}"
            if head.name == "age":
                yield f"{'?' if attribute.years is None else f'{attribute.years:.1f}':>5}"


def _box(face: Face) -> str:
    if face.box is None:
        return "crop"
    x, y, width, height = map(round, face.box)
    return f"{x},{y} {width}x{height}"


def _annotated(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Where each annotated picture goes; never onto a picture that is read."""
    with usage_errors():
        folder.mkdir(parents=True, exist_ok=True)
    targets = []
    for picture in pictures:
        writable = picture.name.suffix.lower() in _WRITABLE
        targets.append(folder / (picture.name if writable else picture.name.with_name(picture.name.name + ".png")))
    sources = {picture.path.resolve() for picture in pictures}
    for target in targets:
        if target.resolve() in sources:
            raise UsageError(f"--annotate {folder} would overwrite {target}: give another folder")
    return targets


def _write_annotated(path: Path, faces: Sequence[Face], target: Path) -> str | None:
    """The error, or None: what cannot be drawn is this picture's failure."""
    from ..photo import annotate

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            annotate(path, faces).save(temporary)
    except Exception as error:
        return f"annotated picture {target}: {reason(error, path)}"
    return None
