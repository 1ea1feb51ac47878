"""Drawn faces of twelve people, packed, and a small network that answers on them: for tests of measuring."""

import dataclasses
import json

import numpy as np
import pytest
from random_weights import one_block, random_tensors

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.photo import DEFAULT_TEMPLATE
from faceattr_fast.training.packing import Entry, PackedWriter
from faceattr_fast.weights import Weights, write_weights

pytest.importorskip("cv2")

SIDE, PEOPLE, EACH = 56, 12, 8
LABELS = {
    "gender": ("female", "male"),
    "ethnicity": ("black", "white", "hispanic"),
    "age": ("0-2", "8-14", "60+"),
}
SPEC = one_block(
    faf.HeadSpec("gender", 2, "fc", labels=LABELS["gender"]),
    faf.HeadSpec("ethnicity", 3, "fc", labels=LABELS["ethnicity"], trained=(True, True, False)),
    faf.HeadSpec("age", 3, "conv2", labels=LABELS["age"]),
    faf.HeadSpec("glasses", 2, "bottleneck", kind="sigmoid", labels=("glasses", "hat")),
    pixels=faf.PixelSpec(size=SIDE),
)
CROP = {**DEFAULT_TEMPLATE.to_dict(), "size": SIDE}
VALIDATION = range(6)  # persons; men and women and each ethnicity are on both sides
NAMES = [f"Ann_{person}" for person in range(PEOPLE - 1)] + ["Bob"]


def save(path, spec, metadata=None):
    """Random weights, whose heads give every answer on the drawn faces, some more often."""
    tensors = random_tensors(spec)
    for head, logits in faf.FastForward(Weights(spec, tensors))(crops()).items():
        if head != "embedding":
            tensors[f"heads.{head}.fc.bias"] -= np.quantile(
                logits, 0.5 - 0.1 * np.arange(logits.shape[1]), axis=0
            ).diagonal()
    write_weights(path, Weights(spec, tensors, {"licence": "none", "crop": CROP, **(metadata or {})}), dtype="float16")
    return path


def crops():
    """Pictures of a colour and some coarse noise: those of a person are alike, but not very."""
    rng = np.random.default_rng(0)
    colours = np.repeat(rng.uniform(60, 200, (PEOPLE, 1, 1, 3)), EACH, 0)
    coarse = np.clip(colours + rng.normal(0, 45, (PEOPLE * EACH, 14, 14, 3)), 0, 255)
    return np.kron(coarse, np.ones((1, SIDE // 14, SIDE // 14, 1))).astype(np.uint8)


def entry(i):
    person, image = divmod(i, EACH)
    labels = {
        "gender": LABELS["gender"][person % 2],
        "ethnicity": ("white", "black", "hispanic", "")[person % 4],
        "age": LABELS["age"][i % 3],
    }
    both = {"glasses": [float(i % 2), float(i % 2 == 0 or i % 3 == 0)]}
    return Entry(f"{NAMES[person]}_{image + 1:04d}.png", subject=NAMES[person], years=(1, 11, 71)[i % 3],
                 labels=labels, targets=both)  # fmt: skip


def pack(folder, split, classes=LABELS, labels=None):
    """All faces; ``split`` says where the i-th goes, ``labels`` replace those that faces have."""
    info = {"name": folder.name, "version": "1", "kind": "tight", "split": "by lot", "crop": {"margin": 0}}
    with PackedWriter(folder, SIDE, {}) as writer:
        for i, crop in enumerate(crops()):
            item = entry(i)
            writer.add(dataclasses.replace(item, labels=item.labels | (labels or {})), crop)
        parts = np.array([split(i) for i in range(writer.crops)])
        writer.finish(parts, np.arange(writer.crops), {**classes, "glasses": ("glasses", "hat")}, info)
    return folder


def evaluate(weights, out, *arguments, plots=False):
    """``report.json`` of ``faceattr evaluate``."""
    command = ["evaluate", "--weights", weights, "--out", out, *arguments, *([] if plots else ["--no-plots"])]
    assert main([*map(str, command)]) == 0
    return json.loads((out / "report.json").read_text())


def outputs(weights, chosen=slice(None)):
    return faf.FastForward.load(weights)(crops()[chosen])
