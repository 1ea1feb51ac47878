"""Labeled Faces in the Wild: photos of people by name, in folds of people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...spec import EMOTION_LABELS, GENDER_LABELS
from ..labels import UNKNOWN, emotion_index
from ..tables import DataError, rows_of, whole_number
from .folder import Folder
from .record import Record, Source, landmark_rows, picture_file

__all__ = ["LFW"]


class LFW(Source):
    """LFW: people, and where lists of them are there, gender by first name and emotions; split by fold.

    Args:
        folder: with ``images/PERSON/PERSON_0001.jpg`` (or the folders of people themselves) and ``people.csv`` (fold,
            person) or LFW's own ``people.txt``; where they are there ``gender.csv`` (person, gender), ``emotion.csv``
            (image, emotion) and ``landmarks5.csv``.
        train_folds: of them the people are trained on; the people of the others are held out.

    Raises:
        FileNotFoundError: the list of people is missing.
        DataError: it is not as expected.
    """

    name = "lfw"
    terms = "research only, not to be redistributed; no licence stated"

    def __init__(self, folder: Path, train_folds: tuple[int, ...] = (1, 2, 3, 4, 5)) -> None:
        super().__init__()
        self.folder, self.train_folds = folder, train_folds
        self.images = folder / "images" if (folder / "images").is_dir() else folder
        self.folds = dict(_folds(folder))
        # Names err about gender, and the emotions are nearly all neutral or happy: both count for less.
        self.training = {"smoothing": 0.1, "trust": {"emotion": 0.5}, "balance": {"subject": 0.5}}
        self.gender = dict(_column(folder / "gender.csv", "person", "gender"))
        self.emotion = dict(_column(folder / "emotion.csv", "image", "emotion"))

    def settings(self) -> dict[str, Any]:
        return {"train_folds": list(self.train_folds)}

    def records(self) -> Iterator[Record]:
        table = self.folder / "landmarks5.csv"
        pictures = landmark_rows(table) if table.exists() else ((r.file, None) for r in Folder(self.images).records())
        for file, landmarks in pictures:
            person, _, name = file.partition("/")
            if person not in self.folds:
                continue
            labels = {}
            if self.gender.get(person) in GENDER_LABELS:
                labels["gender"] = self.gender[person]
            if (emotion := emotion_index(self.emotion.get(name, ""))) != UNKNOWN:
                labels["emotion"] = EMOTION_LABELS[emotion]
            yield Record(
                file,
                picture_file(self.images / file),
                subject=person,
                split="train" if self.folds[person] in self.train_folds else "test",
                labels=labels,
                landmarks=landmarks,
                reason="no face: none in landmarks5.csv" if table.exists() and landmarks is None else "",
            )


def _folds(folder: Path) -> Iterator[tuple[str, int]]:
    if (path := folder / "people.csv").exists():
        for line, row in rows_of(path, ("fold", "person")):
            yield row["person"], whole_number(row["fold"], "fold", f"{path}, line {line}")
        return
    path = folder / "people.txt"  # the number of folds; then of each fold the number of people, and NAME, IMAGES a line
    try:
        lines = iter(path.read_text(encoding="utf-8").splitlines())
        for fold in range(1, int(next(lines)) + 1):
            for _ in range(int(next(lines))):
                yield next(lines).split("\t")[0], fold
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has neither people.csv nor people.txt: expected LFW's folder") from None
    except (ValueError, RuntimeError, StopIteration) as error:
        raise DataError(f"{path}: expected LFW's list of people by folds, got another text: {error}") from None


def _column(path: Path, key: str, value: str) -> Iterator[tuple[str, str]]:
    if path.exists():
        for _, row in rows_of(path, (key, value)):
            yield row[key], row[value]
