"""Train the base network, trunk and heads at once, on packed sets.

A run that was killed goes on where it was, with the same result. ``torchrun --nproc-per-node N -m faceattr_fast train``
shares every batch out to N processes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fine_tune import add_softness_arguments, check_smoothing, count
from .progress import Progress
from .usage import UsageError, add_threads_argument, check_outputs, counts, log_beside, names, positive, usage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..spec import NetworkSpec
    from ..training.base import Origin
    from ..training.parallel import Processes
    from ..training.recipes import Recipe

__all__ = ["add_arguments", "run"]

_NONE = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, metavar="SET", help="packed set (faceattr prepare)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights file to write")
    parser.add_argument("--recipe", default="small", choices=("small", "paper"), help="default: small")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of what differs from the recipe")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="network as JSON (default: the paper's, or --init's)")
    parser.add_argument("--heads", type=names, metavar="A,B,…|none", help="to learn beside identities "
                        "(default: small: all that the sets have labels for; paper: none)")  # fmt: skip
    parser.add_argument("--init", type=Path, metavar="FILE", help="weights to begin from (default: random ones)")
    parser.add_argument("--keep-identities", action="store_true", help="small: write the people's vectors as a layer")
    parser.add_argument("--file-dtype", default="float32", choices=("float32", "float16"), help="default: float32")

    how = parser.add_argument_group("instead of what the recipe says")
    how.add_argument("--steps", type=positive, metavar="N", help="of the optimiser")
    how.add_argument("--sizes", type=counts, metavar="S,…", help="side of the crops in each phase, in pixels")
    how.add_argument("--parts", type=names, metavar="X,…", help="length of each phase, relative to the others")
    how.add_argument("--batch", type=counts, metavar="N,…", help="faces of a step, in each phase or in all of them")
    how.add_argument("--rate", type=float, help="highest learning rate")
    how.add_argument("--mix", type=names, metavar="SET=X,…", help="share of each set in a batch (default: its faces)")
    add_softness_arguments(how)
    how.add_argument("--seed", type=count, default=0, metavar="N", help="default: 0")

    where = parser.add_argument_group("how it runs")
    where.add_argument("--micro-batch", type=positive, metavar="N",
                       help="most faces at a time, whose gradients add up (default: the batch)")  # fmt: skip
    where.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    where.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"),
                       help="of the network's layers; float16 only on cuda (default: float32)")  # fmt: skip
    add_threads_argument(where)
    where.add_argument("--checkpoint-every", type=positive, default=200, metavar="N", help="steps (default: 200)")
    where.add_argument("--restart", action="store_true", help="throw away what a killed run left behind")
    where.add_argument("--log-dir", type=Path, metavar="DIR", help="write the losses for TensorBoard too")


def run(arguments: argparse.Namespace) -> int:
    # Threads that wait by spinning keep the cores from those that render. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    check_outputs(arguments.out, arguments.config, arguments.spec, arguments.init)
    if arguments.precision == "float16" and arguments.device == "cpu":
        raise UsageError("--precision float16 needs --device cuda; the CPU has bfloat16")
    with usage_errors():
        from ..training.parallel import joined
    try:
        with usage_errors(), joined(arguments.device) as processes:
            return _run(arguments, processes)
    except UsageError as error:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UsageError(f"process {os.environ.get('RANK')}: {error}") from error
        raise


def _run(arguments: argparse.Namespace, processes: Processes) -> int:
    import torch

    from ..training.base import Origin, heads_of, train_base
    from ..training.checkpoint import TrainingRun, write_whole
    from ..training.head_data import Faces

    origin = None if arguments.init is None else Origin.read(arguments.init)
    spec = _spec(arguments.spec, origin)
    recipe = _recipe(arguments, spec.pixels.size)
    check_smoothing(arguments)
    faces = Faces.open(arguments.data, arguments.smoothing, arguments.age_spread)
    wanted = arguments.heads or (None if recipe.attributes else [_NONE])
    heads = () if wanted == [_NONE] else heads_of(spec, faces, wanted)
    threads = _threads(arguments.threads, processes)
    torch.set_num_threads(threads)
    checkpoint = arguments.out.with_name(arguments.out.name + ".checkpoint")
    # torchrun starts a process that died again, with the same options.
    if arguments.restart and processes.leads and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        checkpoint.unlink(missing_ok=True)
    processes.wait()
    with Progress(recipe.steps, "steps") as progress:

        def report(line: str) -> None:
            if processes.leads:
                progress.print(line, sys.stderr)

        figures = train_base(
            spec, faces, heads, recipe, arguments.out, processes,
            origin=origin, seed=arguments.seed, micro_batch=arguments.micro_batch, precision=arguments.precision,
            threads=threads, dtype=arguments.file_dtype, keep_identities=arguments.keep_identities,
            run=TrainingRun(
                checkpoint, arguments.checkpoint_every, log_beside(arguments.out, ".csv"),
                progress=progress.meter("steps", "training") if processes.leads else None,
            ),
            watch=_watch(arguments.log_dir, report) if processes.leads else None,
            report=report,
        )  # fmt: skip
    if processes.leads:
        write_whole(log_beside(arguments.out, ".json"), json.dumps(figures, indent=1).encode())
        checkpoint.unlink(missing_ok=True)
        print(
            f"{arguments.out}: {figures['steps']} steps on {figures['images']} faces, {figures['minutes']:.0f} minutes"
        )
    return 0


def _spec(path: Path | None, origin: Origin | None) -> NetworkSpec:
    from ..spec import NetworkSpec

    if path is not None:
        return NetworkSpec.from_json(path.read_text(encoding="utf-8"))
    return NetworkSpec.paper(identities=None) if origin is None else origin.weights.spec


def _threads(threads: int | None, processes: Processes) -> int:
    """Of this process: those on one machine share its CPUs."""
    from ..engine.threads import thread_count

    return threads or max(1, thread_count(None) // processes.local)


def _recipe(arguments: argparse.Namespace, side: int) -> Recipe:
    from ..training.recipes import recipe_of

    changes: dict[str, Any] = {}
    if arguments.config is not None:
        changes = json.loads(arguments.config.read_text(encoding="utf-8"))
        if not isinstance(changes, dict):
            raise UsageError(f"--config {arguments.config}: expected a JSON object")
    for name in ("steps", "rate"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.mix is not None:
        changes["mix"] = dict(_share(part) for part in arguments.mix)
    if arguments.sizes or arguments.parts or arguments.batch:
        changes["phases"] = _phases(arguments, recipe_of(arguments.recipe, side, changes))
    return recipe_of(arguments.recipe, side, changes)


def _share(part: str) -> tuple[str, float]:
    name, _, number = part.rpartition("=")
    return name, _number("--mix", number)


def _phases(arguments: argparse.Namespace, recipe: Recipe) -> list[dict[str, Any]]:
    """Phases of the recipe with other sizes, lengths or batches."""
    phases = recipe.phases
    sizes = arguments.sizes or [phase.size for phase in phases]
    batches = arguments.batch or [phase.batch for phase in phases]
    parts = [_number("--parts", part) for part in arguments.parts or ()]
    if not parts:
        ends = [0.0, *(phase.until for phase in phases)]
        same = len(sizes) == len(phases)
        parts = [end - start for start, end in pairwise(ends)] if same else [1.0] * len(sizes)
    batches = list(batches) * len(sizes) if len(batches) == 1 else batches
    if not len(sizes) == len(parts) == len(batches):
        raise UsageError(
            f"--sizes, --parts and --batch must speak of equally many phases, got {len(sizes)}, {len(parts)} and "
            f"{len(batches)}"
        )
    if not all(0 < part < math.inf for part in parts):
        raise UsageError(f"--parts: expected positive numbers, got {', '.join(map(str, parts))}")
    done, total, result = 0.0, sum(parts), []
    for size, part, batch in zip(sizes, parts, batches, strict=True):
        done += part
        result.append({"until": done / total, "size": size, "batch": batch})
    result[-1]["until"] = 1.0
    return result


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option}: expected numbers, got {text!r}") from None


def _watch(folder: Path | None, report: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """What to do with each line of the log: print it, and write it for TensorBoard if there is a folder for that."""
    writer: Any = None
    if folder is not None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(f"--log-dir needs the package tensorboard (pip install tensorboard): {error}") from error

    def watch(line: dict[str, Any]) -> None:
        nonlocal writer
        known = {name: value for name, value in line.items() if value is not None}
        losses = {name: value for name, value in known.items() if name not in ("step", "size", "rate", "images")}
        text = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        report(f"step {line['step']}, {line['size']} px, rate {line['rate']:.1e}: {text}")
        if folder is not None:
            if writer is None:  # what an interrupted run wrote of steps that are taken again does not count
                writer = SummaryWriter(str(folder), purge_step=line["step"])
            for name, value in {**losses, "rate": line["rate"]}.items():
                writer.add_scalar(f"loss/{name}" if name in losses else name, value, line["step"])
            writer.flush()

    return watch
