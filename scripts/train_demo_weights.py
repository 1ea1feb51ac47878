"""Train demonstration weights like those that the package ships, and measure them on faces held out from training.

    python scripts/train_demo_weights.py --data DIR --out FILE [--cache DIR] [--minutes 70]

DIR holds ``lfw``, ``utkface`` and ``ferplus`` (layouts: ``faceattr_fast.training.sources``). Their terms allow
research only, and so do the weights. FILE is written whole or not at all, with a log of all figures beside it (FILE
with .json), of which ``scripts/model_card.py`` makes the model card.

Training starts from random weights, or from a file (``--init``), or from the checkpoint in the cache folder: its
unfinished schedule is finished (``--resume``), or a new one begun (``--again``). ``--resume --minutes 0`` does not
train: it measures and writes what the checkpoint holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads that wait by spinning keep a shared machine's cores from the threads they wait for. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from faceattr_fast import FastForward, reference
from faceattr_fast.deviation import deviations
from faceattr_fast.formats import with_int8_ranges
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.spec import NetworkSpec
from faceattr_fast.training import evaluate
from faceattr_fast.training.augment import render
from faceattr_fast.training.datasets import FaceSet
from faceattr_fast.training.embedding import transform_embedding, within_person_whitening
from faceattr_fast.training.labels import TRAINED_ETHNICITIES, UNKNOWN
from faceattr_fast.training.prepare import PrepareOptions, prepare
from faceattr_fast.training.schedule import Budget, Recipe
from faceattr_fast.training.sources import LFW, FERPlus, UTKFace
from faceattr_fast.training.tables import rows_of
from faceattr_fast.training.trainer import estimate_norms, initialise, limit_variances, train
from faceattr_fast.weights import Weights, read_weights, write_weights

LICENCE = "trained on research-only data, for research and demonstration, not for commercial use"
VERSION = "1"
HELD_OUT = 1200  # faces of UTKFace


def demo_spec() -> NetworkSpec:
    """The paper's network without identity layer; ethnicity says which classes had training data."""
    spec = NetworkSpec.paper(identities=None)
    trained = {"ethnicity": TRAINED_ETHNICITIES}
    heads = tuple(dataclasses.replace(head, trained=trained.get(head.name, True)) for head in spec.heads)
    return dataclasses.replace(spec, heads=heads)


def face_sets(data: Path, cache: Path, seed: int, report: Callable[[str], None]) -> list[FaceSet]:
    """UTKFace, LFW and FER+, each packed once in the cache folder; only UTKFace's split depends on the seed."""
    plans = [
        (UTKFace(data / "utkface"), PrepareOptions(test=HELD_OUT, seed=seed)),
        (LFW(data / "lfw"), PrepareOptions()),
        (FERPlus(data / "ferplus"), PrepareOptions()),
    ]
    folders = [cache / f"utkface-{HELD_OUT}-{seed}", cache / "lfw", cache / "ferplus"]
    return [
        prepare(source, folder, options, report=report).face_set()
        for (source, options), folder in zip(plans, folders, strict=True)
    ]


def measure(
    net: reference.FaceAttrNet, utkface: FaceSet, lfw: FaceSet, ferplus: FaceSet, pairs: Path
) -> dict[str, Any]:
    """Every figure of the model card."""
    figures: dict[str, Any] = {}
    index = utkface.held_out
    outputs = evaluate.predict(net, utkface, index)
    labels = {head: values[index] for head, values in utkface.labels.items()}
    years = utkface.years[index]
    for head in ("gender", "ethnicity"):
        figures[f"{head} on utkface"] = evaluate.accuracy_report(
            outputs[head], labels[head], net.spec.head(head).class_labels
        )
    figures["age on utkface"] = evaluate.age_report(outputs["age"], labels["age"], years)
    figures["groups on utkface"] = evaluate.groups_report(outputs, labels, groups_of(net.spec, labels, years), years)

    index = ferplus.held_out
    emotion = net.spec.head("emotion").class_labels
    outputs = evaluate.predict(net, ferplus, index)
    labels = ferplus.labels["emotion"][index]
    figures["emotion on ferplus"] = evaluate.accuracy_report(outputs["emotion"], labels, emotion)

    index = lfw.held_out
    outputs = evaluate.predict(net, lfw, index)
    for head in ("gender", "emotion"):
        figures[f"{head} on lfw"] = evaluate.accuracy_report(
            outputs[head], lfw.labels[head][index], net.spec.head(head).class_labels
        )
    figures["verification on lfw"] = verify(outputs["embedding"], lfw, index, pairs)
    return figures


def groups_of(spec: NetworkSpec, labels: dict[str, np.ndarray], years: np.ndarray) -> dict[str, np.ndarray]:
    """Members of each gender, age band and ethnicity."""
    groups = {name: labels["gender"] == i for i, name in enumerate(spec.head("gender").class_labels)}
    bands = ((0, 2), (3, 7), (8, 14), (15, 24), (25, 37), (38, 59), (60, 200), (0, 14), (15, 200))
    for low, high in bands:
        groups[f"{low}-{high} years" if high < 200 else f"{low}+ years"] = (years >= low) & (years <= high)
    ethnicity = spec.head("ethnicity")
    groups |= {name: labels["ethnicity"] == i for i, name in enumerate(ethnicity.class_labels) if ethnicity.trained[i]}
    groups["other or unknown ethnicity"] = labels["ethnicity"] == UNKNOWN
    return groups


def verify(embedding: np.ndarray, lfw: FaceSet, index: np.ndarray, pairs: Path, splits: int = 10) -> dict[str, Any]:
    """LFW's protocol on the pairs whose two faces are held out."""
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    place = {Path(lfw.names[i]).stem: row for row, i in enumerate(index)}
    cosines, same = [], []
    for _, row in rows_of(pairs):
        a, b = (place.get(f"{row[f'person_{x}']}_{int(row[f'image_{x}']):04d}") for x in "ab")
        if a is not None and b is not None:
            cosines.append(float(unit[a] @ unit[b]))
            same.append(row["same"] == "1")
    split = np.random.default_rng(0).permutation(len(same)) % splits
    return evaluate.verification(np.array(cosines), np.array(same), split)


def whiten(net: reference.FaceAttrNet, lfw: FaceSet, seed: int, most: int = 3500) -> None:
    """Turn the embedding so that cosines tell people apart better; the attributes stay as they are."""
    index = np.flatnonzero(lfw.train)
    _, person, counts = np.unique(lfw.people[index], return_inverse=True, return_counts=True)
    index = index[counts[person] > 1]
    index = np.random.default_rng(seed).permutation(index)[:most]
    embedding = evaluate.predict(net, lfw, index)["embedding"].astype(np.float64)
    matrix, mean = within_person_whitening(embedding, lfw.people[index])
    transform_embedding(net, matrix, mean, embedding)


def int8_scales(
    weights: Weights, utkface: FaceSet, lfw: FaceSet, seed: int, threads: int, most: int = 512
) -> tuple[Weights, dict[str, Any]]:
    """The weights with scales for int8 from faces that were trained on, and how it agrees with float32 on others."""
    size, rng = weights.spec.pixels.size, np.random.default_rng(seed)
    crops = []
    for faces in (utkface, lfw):
        index = rng.permutation(np.flatnonzero(faces.train))[: most // 2]
        crops.append(render(faces, np.sort(index), size))
    scaled = with_int8_ranges(weights, np.concatenate(crops), threads)
    networks = [FastForward(scaled, dtype=dtype, threads=threads) for dtype in ("int8", "float32")]
    parts: list[list[dict[str, np.ndarray]]] = [[], []]
    index = utkface.held_out
    for start in range(0, len(index), 64):
        unseen = render(utkface, index[start : start + 64], size)
        for network, part in zip(networks, parts, strict=True):
            part.append(network(unseen))
    int8, exact = ({name: np.concatenate([p[name] for p in part]) for name in part[0]} for part in parts)
    heads = {name: dataclasses.asdict(deviation) for name, deviation in deviations(scaled.spec, int8, exact).items()}
    return scaled, {"images": sum(map(len, crops)), "n": len(index), "heads": heads}


def metadata_of(figures: dict[str, Any], sets: list[FaceSet], seed: int) -> dict[str, Any]:
    """What the weights file says about itself."""

    def brief(figure: str, data: str, key: str = "accuracy") -> dict[str, Any]:
        return {"value": round(figures[figure][key], 4), "n": figures[figure]["n"], "data": data}

    threshold = {"threshold": round(figures["verification on lfw"]["threshold"], 4)}
    utkface, ferplus, lfw = "UTKFace, held-out faces", "FER+, public test", "LFW, held-out people"
    return {
        "version": VERSION,
        "licence": LICENCE,
        "crop": DEFAULT_TEMPLATE.to_dict(),
        "seed": seed,
        "trained_on": [
            {"name": faces.name, "images": int(faces.train.sum()), "labels": sorted(faces.targets) + identity}
            for faces in sets
            for identity in [["identity"] if faces.people is not None else []]
        ],
        "accuracy": {
            "gender": brief("gender on utkface", utkface),
            "age": brief("age on utkface", utkface),
            "age_error_years": brief("age on utkface", utkface, "mean error in years"),
            "ethnicity": brief("ethnicity on utkface", utkface),
            "emotion": brief("emotion on ferplus", ferplus),
            "verification": brief("verification on lfw", lfw) | threshold,
        },
    }


def rounded(net: reference.FaceAttrNet) -> reference.FaceAttrNet:
    """The network as a float16 file gives it back: what is measured is what is shipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.safetensors"
        reference.save(net, path, dtype="float16")
        return reference.load(path).to(memory_format=torch.channels_last)


def minutes(text: str) -> float:
    """An argparse type."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw, utkface and ferplus")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--cache", type=Path, help="folder for packed crops (3.8 GB); default: .cache beside --out")
    parser.add_argument(
        "--minutes", type=minutes, default=70, help="that a whole schedule takes; a pause of the process does not count"
    )
    parser.add_argument("--wall-minutes", type=minutes, help="end the training after so many minutes, pauses included")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0, help="also says which faces are held out")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="finish the schedule of the checkpoint")
    start.add_argument("--again", action="store_true", help="begin a new schedule from the weights of the checkpoint")
    start.add_argument("--init", type=Path, metavar="FILE", help="begin from a weights file instead of random weights")
    arguments = parser.parse_args(argv)
    arguments.cache = arguments.cache or arguments.out.parent / ".cache"
    arguments.checkpoint = arguments.cache / "checkpoint.pt"
    if (arguments.resume or arguments.again) and not arguments.checkpoint.is_file():
        parser.error(f"--{'resume' if arguments.resume else 'again'}: no checkpoint {arguments.checkpoint}")
    if 0 in (arguments.minutes, arguments.wall_minutes) and not (arguments.resume or arguments.init):
        parser.error("0 minutes train nothing: they need --resume or --init, whose weights are measured and written")
    try:
        arguments.net = starting_net(arguments.init, arguments.seed)
    except (OSError, ValueError) as error:
        parser.error(f"--init: {error}")
    return arguments


def starting_net(path: Path | None, seed: int) -> reference.FaceAttrNet:
    """The network that training begins with: that of a weights file, or a random one."""
    spec = demo_spec()
    if path is None:
        net = reference.FaceAttrNet(spec, seed=seed)
        initialise(net, seed)
        return net
    weights = read_weights(path)
    if weights.spec != spec:
        raise ValueError(f"expected the demonstration network, got another in {path}")
    if weights.metadata.get("seed", seed) != seed:  # its training saw faces that are held out under this seed
        raise ValueError(f"{path} was trained with --seed {weights.metadata['seed']}, got --seed {seed}")
    return reference.load(path)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)

    def report(line: str) -> None:
        print(line, flush=True)

    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    sets = utkface, lfw, ferplus = face_sets(arguments.data, arguments.cache, arguments.seed, report)

    recipe = Recipe()
    net = arguments.net
    figures: dict[str, Any] = {
        "version": VERSION,
        "parameters": net.spec.count().parameters,
        "recipe": dataclasses.asdict(recipe),
        "seed": arguments.seed,
        "faces": {faces.name: {"training": int(faces.train.sum()), "held out": len(faces.held_out)} for faces in sets},
    }
    net, figures["training"] = train(
        net,
        sets,
        Budget(arguments.minutes, arguments.wall_minutes),
        recipe,
        arguments.seed,
        checkpoint=arguments.checkpoint,
        resume=arguments.resume or arguments.again,
        again=arguments.again,
        origin=arguments.init.name if arguments.init else "random weights",
        report=report,
    )
    net.to(memory_format=torch.channels_last)
    report("estimating batch-norm statistics")
    estimate_norms(net, sets, seed=arguments.seed)
    report("whitening the embedding")
    whiten(net, lfw, arguments.seed)
    limit_variances(net)
    report("measuring on faces that training never saw")
    shipped = rounded(net)
    figures |= measure(shipped, utkface, lfw, ferplus, arguments.data / "lfw" / "pairs.csv")
    report("making scales for int8")
    weights = Weights(shipped.spec, tensors_of(shipped), metadata_of(figures, sets, arguments.seed))
    weights, figures["int8 on utkface"] = int8_scales(weights, utkface, lfw, arguments.seed, arguments.threads)
    figures["minutes"] = round((time.monotonic() - started) / 60, 1)

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    log = arguments.out.with_suffix(".json")
    partial = log.with_name(log.name + ".part")
    partial.write_text(json.dumps(figures, indent=1))
    os.replace(partial, log)
    write_weights(arguments.out, weights, dtype="float16")
    report(json.dumps(weights.metadata["accuracy"], indent=1))
    report(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB) and {log}")


if __name__ == "__main__":
    main()
