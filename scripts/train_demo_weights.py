"""Train demonstration weights like those that the package ships, and measure them on faces held out from training.

    python scripts/train_demo_weights.py --data DIR --out FILE [--cache DIR] [option of faceattr train]…

DIR holds ``lfw``, ``utkface`` and ``ferplus`` (layouts: ``faceattr_fast.training.sources``). Their terms allow
research only, and so do the weights. They are packed as ``faceattr prepare`` packs, and trained as ``faceattr train``
trains, which goes on where a killed run was. What is added is what the package ships beyond that: figures on faces
that training never saw, scales for int8 and a threshold for verification, in FILE, as float16; and a log of all
figures beside it (FILE with .json), of which ``scripts/model_card.py`` makes the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
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
VERSION = "1"
HELD_OUT = 1200  # faces of UTKFace


# Shares of a batch: by their numbers of faces, FER+'s small grey pictures would be most of it.
MIX = {"utkface": 0.58, "lfw": 0.22, "ferplus": 0.20}


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


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The script's own options, and those of ``faceattr train``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw, utkface and ferplus")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--cache", type=Path, help="folder for packed crops (3.8 GB); default: .cache beside --out")
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
    trained = arguments.cache / "trained.safetensors"
    mix = ",".join(f"{name}={share}" for name, share in MIX.items())
    command("train", *folders, "--out", trained, "--mix", mix, "--threads", arguments.threads, "--seed",
            arguments.seed, *more)  # fmt: skip

    sets = utkface, lfw, ferplus = [PackedFaces.open(folder).face_set() for folder in folders]
    training = json.loads(trained.with_suffix(".json").read_text(encoding="utf-8"))
    faces = {faces.name: {"training": training["sets"][faces.name], "held out": len(faces.held_out)} for faces in sets}
    figures: dict[str, Any] = {"version": VERSION, "faces": faces, "training": training}
    print("measuring on faces that training never saw", flush=True)
    shipped = rounded(reference.load(trained))
    figures |= measure(shipped, utkface, lfw, ferplus, arguments.data / "lfw" / "pairs.csv")
    print("making scales for int8", flush=True)
    says = read_weights(trained).metadata | {"version": VERSION, "licence": LICENCE, "accuracy": accuracy_of(figures)}
    weights = Weights(shipped.spec, tensors_of(shipped), says)
    weights, figures["int8 on utkface"] = int8_scales(weights, utkface, lfw, arguments.seed, arguments.threads)
    log = arguments.out.with_suffix(".json")
    write_whole(log, json.dumps(figures, indent=1).encode())
    write_weights(arguments.out, weights, dtype="float16")
    print(json.dumps(weights.metadata["accuracy"], indent=1))
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB) and {log}")


if __name__ == "__main__":
    main()
