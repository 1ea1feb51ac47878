"""Sets, a tiny network and what trains it, for the tests of ``faceattr train``."""

import dataclasses

import numpy as np
import torch
from training_data import striped_faces, tiny_spec, write_packed

from faceattr_fast import reference
from faceattr_fast.spec import AGE_LABELS
from faceattr_fast.training import base, learner, recipes
from faceattr_fast.training.batches import BaseData
from faceattr_fast.training.head_data import Faces
from faceattr_fast.training.parallel import Processes

GENDER = ("female", "male")
ALONE = Processes(0, 1, 1, torch.device("cpu"))


def write_sets(root):
    """Faces with gender and age, the last third held out; six people of different brightness, with no label."""
    crops, kind = striped_faces(72)
    person = np.arange(72) % 6
    bright = np.clip(crops.astype(int) + (person * 25 - 60)[:, None, None, None], 0, 255).astype(np.uint8)
    split = ["train"] * 48 + ["test"] * 24
    years = np.random.default_rng(0).integers(0, 70, 72)
    years[:4] = -1
    return [
        write_packed(
            root / "looks", crops, {"gender": GENDER, "age": AGE_LABELS},
            {"gender": np.where(np.arange(72) == 3, "", np.array(GENDER)[kind]), "age": [""] * 72},
            split=split, years=years,
        ),
        write_packed(
            root / "people", bright, {"gender": GENDER}, {"gender": [""] * 72}, split=split,
            subjects=[f"P{i}" for i in person], info={"terms": "drawn for tests, with names"},
        ),
    ]  # fmt: skip


def tiny_recipe(**changes) -> recipes.Recipe:
    return dataclasses.replace(recipes.small(32), **{"steps": 20, "phases": (recipes.Phase(1.0, 32, 12),), **changes})


def tiny_data(sets, recipe=None, **options) -> BaseData:
    faces = Faces.open(sets, **options)
    return BaseData(faces, base.heads_of(tiny_spec(), faces, None), recipe or tiny_recipe())


def tiny_learner(data, **options) -> learner.Learner:
    spec = dataclasses.replace(tiny_spec(), heads=tuple(head.head for head in data.heads))
    net = reference.FaceAttrNet(spec, seed=0)
    learner.initialise(net, 0)
    return learner.Learner(net, len(data.identities), data.recipe, 0, **options)
