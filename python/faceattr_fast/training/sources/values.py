"""From the text of a table to labels: names of columns and classes in common use, ages, dates."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...spec import AGE_LABELS, EMOTION_LABELS, ETHNICITY_LABELS, GENDER_LABELS
from ..labels import UNKNOWN, age_bin, age_range_targets, emotion_index
from ..packed import SPLITS
from ..tables import DataError

__all__ = ["KNOWN_CLASSES", "Values", "age_between", "find_columns", "read_values"]

KNOWN_CLASSES = {
    "gender": GENDER_LABELS,
    "ethnicity": ETHNICITY_LABELS,
    "age": AGE_LABELS,
    "emotion": EMOTION_LABELS,
}
"""Classes of the labels that the package knows, in its order; other labels bring their own."""

# How tables call what is read from them, beside the name itself.
_ALIASES = {
    "file": ("path", "image", "filename"),
    "subject": ("person", "identity", "subject_id"),
    "split": (),
    "birth": ("birth_date", "born"),
    "captured": ("capture_date", "photo_taken"),
    "age": (),
    "gender": ("sex",),
    "ethnicity": ("race",),
    "emotion": ("expression",),
}
# FairFace's names of its seven groups are among these.
_CLASS_ALIASES = {
    "gender": {"f": "female", "m": "male", "woman": "female", "man": "male"},
    "ethnicity": {
        "latino hispanic": "hispanic", "latino": "hispanic", "indian": "south-asian", "southeast asian":
        "south-east-asian", "others": "", "other": "",
    },
}  # fmt: skip
_SPLIT_ALIASES = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
_MOST_YEARS = 120


@dataclass
class Values:
    """What a row says about a face; as in :class:`.record.Record`."""

    subject: str = ""
    split: str = ""
    years: int = UNKNOWN
    labels: dict[str, str] = field(default_factory=dict)
    targets: dict[str, list[float]] = field(default_factory=dict)
    reason: str = ""


def find_columns(found: Iterable[str], given: Mapping[str, str], where: str) -> dict[str, str]:
    """Which column holds what: as ``given`` (name → column), else by the names in common use.

    Raises:
        DataError: a column that is given is not there.
    """
    found = list(found)
    if missing := [column for column in given.values() if column not in found]:
        raise DataError(f"{where}: expected the columns {missing}, got {found}")
    by_name = {column.strip().casefold(): column for column in reversed(found)}
    columns = dict(given)
    for name, others in _ALIASES.items():
        for alias in (name, *others):
            if name not in columns and alias in by_name:
                columns[name] = by_name[alias]
    return columns


def read_values(
    row: Mapping[str, str], columns: Mapping[str, str], classes: Mapping[str, tuple[str, ...]], where: str
) -> Values:
    """Labels of a row.

    Args:
        row: column → text; empty is unknown. ``a|b`` gives two classes at once.
        columns: of :func:`find_columns`; what is not in the list of common names is a label.
        classes: of labels beside the package's own; a label that has none here takes any class.
        where: file and line, for errors.

    Raises:
        DataError: a class that the label does not have, a wrong age or date.
    """
    values = Values()
    text = {name: row[column].strip() for name, column in columns.items()}
    values.subject = text.pop("subject", "")
    split = text.pop("split", "").casefold()
    values.split = _SPLIT_ALIASES.get(split, split)
    if values.split and values.split not in SPLITS:
        raise DataError(f"{where}: split: expected one of {list(SPLITS)}, got {row[columns['split']]!r}")
    text.pop("file", None)
    birth, captured = text.pop("birth", ""), text.pop("captured", "")
    _read_age(values, text.pop("age", ""), f"{where}: age")
    if birth and captured and values.years == UNKNOWN:
        years = age_between(birth, captured, where)
        if 0 <= years <= _MOST_YEARS:
            values.years, values.labels["age"] = years, AGE_LABELS[age_bin(years)]
        else:
            values.reason = f"impossible age: born {birth}, captured {captured}"
    for head, entry in text.items():
        names = [name for part in entry.split("|") if (name := _class_name(head, part, classes, where))]
        if len(names) == 1:
            values.labels[head] = names[0]
        elif names:
            known = KNOWN_CLASSES.get(head, classes.get(head))
            if known is None:
                raise DataError(f"{where}: {head}: expected its classes to be given, since a face has several: {entry}")
            values.targets[head] = [float(name in names) for name in known]
    return values


def _class_name(head: str, text: str, classes: Mapping[str, tuple[str, ...]], where: str) -> str:
    """The class's own name; "" for unknown."""
    text = text.strip()
    if not text:
        return ""
    known = classes.get(head) or KNOWN_CLASSES.get(head)
    if known is None or text in known:
        return text
    plain = text.casefold().replace("_", " ")
    if head == "emotion" and (index := emotion_index(plain)) != UNKNOWN:
        return EMOTION_LABELS[index]
    aliases = _CLASS_ALIASES.get(head, {})
    name = aliases.get(plain, plain.replace(" ", "-"))
    if name and name not in known:
        raise DataError(f"{where}: {head}: expected one of {list(known)}, got {text!r}")
    return name


def _read_age(values: Values, text: str, where: str) -> None:
    """Years, or a range of them: 31, 30-39, 60+, more than 70."""
    if not text:
        return
    match = re.fullmatch(r"(?:more than )?(\d+)(?:\.0*)?(?:\s*-\s*(\d+)|(\+))?", text.casefold())
    if not match or not int(match[1]) <= int(match[2] or match[1]) <= _MOST_YEARS:
        raise DataError(f"{where}: expected years up to {_MOST_YEARS} or a range of them such as 30-39, got {text!r}")
    first = int(match[1])
    if text[0].isdigit() and not match[2] and not match[3]:
        values.years, values.labels["age"] = first, AGE_LABELS[age_bin(first)]
        return
    shares = age_range_targets(first, int(match[2] or _MOST_YEARS))
    if shares.max() == 1:
        values.labels["age"] = AGE_LABELS[int(np.argmax(shares))]
    else:
        values.targets["age"] = shares.tolist()


def age_between(birth: str, captured: str, where: str) -> int:
    """Whole years from a birth to a capture date, each YYYY, YYYY-MM or YYYY-MM-DD; may be negative.

    What a date leaves out is taken to be the middle of the year or of the month.
    """
    born, taken = (_date(text, name, where) for name, text in (("birth", birth), ("captured", captured)))
    return taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))


def _date(text: str, name: str, where: str) -> datetime.date:
    match = re.fullmatch(r"(\d{4})(?:-(\d\d?))?(?:-(\d\d?))?", text)
    try:
        if not match:
            raise ValueError
        year, month, day = (int(part or 0) for part in match.groups())
        return datetime.date(year, month or 7, day or (15 if month else 1))
    except ValueError:
        raise DataError(f"{where}: {name}: expected YYYY, YYYY-MM or YYYY-MM-DD, got {text!r}") from None
