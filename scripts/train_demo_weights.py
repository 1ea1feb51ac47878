"""Train demonstration weights like those that the package ships, and measure them on faces held out from training.

    python scripts/train_demo_weights.py --data DIR --out FILE [--cache DIR] [option of faceattr train]…

DIR holds ``lfw``, ``utkface`` and ``ferplus`` (layouts: ``faceattr_fast.training.sources``). Their terms allow
research only, and so do the weights. They are packed as ``faceattr prepare`` packs, and trained as ``faceattr train``
trains, which goes on where a killed run was. ``--relearn`` learns heads anew on the trunk that came out, as
``faceattr fine-tune`` does. What is added is what the package ships beyond that: figures on faces that training never
saw, scales for int8 and a threshold for verification, in FILE, as float16; and a log of all figures beside it (FILE
with .json), of which ``scripts/model_card.py`` makes the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceattr_fast import FastForward, cli, reference
from faceattr_fast.engine.threads import thread_count
from faceattr_fast.formats.deviation import deviations
from faceattr_fast.formats.dtypes import with_int8_ranges
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.training import PackedFaces, evaluate
from faceattr_fast.training.augment import render
from faceattr_fast.training.cases import Cases, examine, predict
from faceattr_fast.training.checkpoint import write_whole
from faceattr_fast.training.datasets import FaceSet
from faceattr_fast.training.pairs import read_pairs
from faceattr_fast.training.sources.values import KNOWN_CLASSES
from faceattr_fast.weights import Weights, read_weights, write_weights

LICENCE = "trained on research-only data, for research and demonstration, not for commercial use"
VERSION = "2"
HELD_OUT = 1200  # faces of UTKFace


# Shares of a batch: by their numbers of faces, FER+'s small grey pictures would be most of it.
MIX = {"utkface": 0.58, "lfw": 0.22, "ferplus": 0.20}
# The set that a head is learned anew from, and measured on.
SETS = {"gender": "utkface", "age": "utkface", "ethnicity": "utkface", "emotion": "ferplus"}
RELEARN = ["--steps", "600", "--rate", "5e-4", "--augmentations", "1", "--cache-dtype", "float16"]


def pack(data: Path, cache: Path) -> list[Path]:
    """UTKFace, LFW and FER+, each packed once in the cache folder."""
    folders = [cache / name for name in MIX]
    for folder in folders:
        more = ["--test", str(HELD_OUT)] if folder.name == "utkface" else []
        if not folder.exists():
            command("prepare", data / folder.name, "--format", folder.name, "--out", folder, *more)
    return folders


def command(*words: object) -> None:
    """Run a command of the package; its own message says what went wrong. 1: some pictures were damaged."""
    if (code := cli.main(list(map(str, words)))) not in ((0, 1) if words[0] == "prepare" else (0,)):
        sys.exit(code)


def relearn(
    trained: Path, wanted: Mapping[str, str], keep: Iterable[str], cache: Path, options: Iterable[object]
) -> tuple[Path, dict[str, Any]]:
    """Learn heads anew on the frozen trunk, each at the branch point that a search found for it, and measure them.

    Args:
        trained: weights file that the trunk comes from.
        wanted: head → branch point.
        keep: the heads of these that take the place of those that were trained with the trunk.
        cache: folder of the packed sets.
        options: further ones of ``faceattr fine-tune``.

    Returns:
        The file with the kept ones, and per head its accuracy as trained and as learned anew.
    """
    kept, figures = trained, {}
    for head, branch in wanted.items():
        folder, out = cache / SETS[head], trained.with_name(f"{head}-{branch}.safetensors")
        own = read_weights(trained).spec.head(head).branch
        start = "head" if own == branch else "trunk"
        command("fine-tune", folder, "--weights", kept, "--head", head, "--branch", branch, "--init-from", start,
                "--out", out, *RELEARN, *options)  # fmt: skip
        faces = PackedFaces.open(folder).face_set()
        rows = []
        for path in (trained, out):
            fast = FastForward.load(path, heads=(head,))
            cases = examine(fast, faces, faces.held_out, KNOWN_CLASSES)
            rows.append(evaluate.measure(fast.spec, cases)["heads"][head])
        before, after = rows
        figures[head] = {
            "n": after["n"], "branch": own, "accuracy": before["accuracy"], "anew at": branch,
            "accuracy anew": after["accuracy"], "kept": head in keep,
        }  # fmt: skip
        print(f"{head}: {before['accuracy']:.4f}; learned anew at {branch}: {after['accuracy']:.4f}", flush=True)
        kept = out if head in keep else kept
    return kept, figures


def measure(
    net: reference.FaceAttrNet, utkface: FaceSet, lfw: FaceSet, ferplus: FaceSet, pairs: Path
) -> dict[str, Any]:
    """Every figure of the model card."""
    fast = FastForward.from_module(net)
    figures: dict[str, Any] = {}
    for faces in (utkface, ferplus, lfw):
        cases = examine(fast, faces, faces.held_out, KNOWN_CLASSES)
        report = evaluate.measure(fast.spec, cases)
        figures |= {f"{head} on {faces.name}": row for head, row in report["heads"].items()}
        figures[f"groups on {faces.name}"] = report["groups"]
        if faces is lfw:
            figures["verification on lfw"] = verify(cases, pairs)
    return figures


def verify(cases: Cases, path: Path, splits: int = 10) -> dict[str, Any]:
    """LFW's protocol on the pairs whose two faces are held out: few of its ten folds, hence parts drawn from them."""
    pairs = read_pairs(path)
    held_out = (pairs.rows(cases.files) >= 0).all(1)
    split = np.zeros(len(pairs), int)
    split[held_out] = np.random.default_rng(0).permutation(held_out.sum()) % splits
    return evaluate.verification_report([cases], dataclasses.replace(pairs, split=split), allow_missing=True)


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
    index = utkface.held_out
    int8, exact = (predict(network, utkface, index) for network in networks)
    heads = {name: dataclasses.asdict(deviation) for name, deviation in deviations(scaled.spec, int8, exact).items()}
    return scaled, {"images": sum(map(len, crops)), "n": len(index), "heads": heads}


def accuracy_of(figures: dict[str, Any]) -> dict[str, Any]:
    """What the weights file says about its accuracy."""

    def brief(figure: str, data: str, key: str = "accuracy") -> dict[str, Any]:
        return {"value": round(figures[figure][key], 4), "n": figures[figure]["n"], "data": data}

    threshold = {"threshold": round(figures["verification on lfw"]["threshold"], 4)}
    utkface, ferplus, lfw = "UTKFace, held-out faces", "FER+, public test", "LFW, held-out people"
    return {
        "gender": brief("gender on utkface", utkface),
        "age": brief("age on utkface", utkface),
        "age_error_years": brief("age on utkface", utkface, "mean error in years"),
        "ethnicity": brief("ethnicity on utkface", utkface),
        "emotion": brief("emotion on ferplus", ferplus),
        "verification": brief("verification on lfw", lfw) | threshold,
    }


def rounded(net: reference.FaceAttrNet) -> reference.FaceAttrNet:
    """The network as a float16 file gives it back: what is measured is what is shipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.safetensors"
        reference.save(net, path, dtype="float16")
        return reference.load(path).to(memory_format=torch.channels_last)


def pairs_of(text: str) -> dict[str, str]:
    pairs = dict(part.split("@") for part in text.split(","))
    if unknown := sorted(pairs.keys() - SETS.keys()):
        raise ValueError(unknown)
    return pairs


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The script's own options, and those of ``faceattr train``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw, utkface and ferplus")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--cache", type=Path, help="folder for packed crops (3.8 GB); default: .cache beside --out")
    parser.add_argument(
        "--trained", type=Path, help="what faceattr train wrote, its log beside it, instead of training"
    )
    parser.add_argument("--before", type=Path, help="this script's log of the weights that --init names, for the card")
    parser.add_argument("--relearn", type=pairs_of, default={}, metavar="HEAD@LAYER,…", help="heads to learn anew")
    parser.add_argument(
        "--keep", type=lambda text: text.split(","), default=[], metavar="HEAD,…", help="those to ship so"
    )
    parser.add_argument("--threads", type=int, help="default: the CPUs that this process may use")
    parser.add_argument("--seed", type=int, default=0)
    arguments, more = parser.parse_known_args(argv)
    arguments.cache = arguments.cache or arguments.out.parent / ".cache"
    arguments.threads = thread_count(arguments.threads)
    return arguments, more


def main(argv: list[str] | None = None) -> None:
    arguments, more = parse(argv)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    folders = pack(arguments.data, arguments.cache)
    trained = arguments.trained or arguments.cache / "trained.safetensors"
    if arguments.trained is None:
        mix = ",".join(f"{name}={share}" for name, share in MIX.items())
        command("train", *folders, "--out", trained, "--mix", mix, "--threads", arguments.threads, "--seed",
                arguments.seed, *more)  # fmt: skip

    sets = utkface, lfw, ferplus = [PackedFaces.open(folder).face_set() for folder in folders]
    training = json.loads(trained.with_suffix(".json").read_text(encoding="utf-8"))
    faces = {faces.name: {"training": training["sets"][faces.name], "held out": len(faces.held_out)} for faces in sets}
    figures: dict[str, Any] = {"version": VERSION, "faces": faces, "training": training}
    if arguments.before is not None:
        earlier = json.loads(arguments.before.read_text(encoding="utf-8"))["training"]
        figures["before"] = {key: value for key, value in earlier.items() if key != "log"}
    options = ["--threads", arguments.threads, "--seed", arguments.seed, "--cache", arguments.cache / "features"]
    for name in ("smoothing", "age_spread"):  # heads learn anew from the same targets
        if training.get(name) is not None:
            options += [f"--{name.replace('_', '-')}", training[name]]
    trained, figures["learned anew"] = relearn(trained, arguments.relearn, arguments.keep, arguments.cache, options)
    print("measuring on faces that training never saw", flush=True)
    shipped = rounded(reference.load(trained))
    figures |= measure(shipped, utkface, lfw, ferplus, arguments.data / "lfw" / "pairs.csv")
    print("making scales for int8", flush=True)
    says = read_weights(trained).metadata | {"version": VERSION, "licence": LICENCE, "accuracy": accuracy_of(figures)}
    figures["parameters"] = shipped.spec.count().parameters
    weights = Weights(shipped.spec, tensors_of(shipped), says)
    weights, figures["int8 on utkface"] = int8_scales(weights, utkface, lfw, arguments.seed, arguments.threads)
    log = arguments.out.with_suffix(".json")
    write_whole(log, json.dumps(figures, indent=1).encode())
    write_weights(arguments.out, weights, dtype="float16")
    print(json.dumps(weights.metadata["accuracy"], indent=1))
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB) and {log}")


if __name__ == "__main__":
    main()
