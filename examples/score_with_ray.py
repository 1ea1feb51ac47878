"""Score photos and WebDataset shards with Ray Data: exactly one row per photo, whoever is killed meanwhile.

    pip install "faceattr_fast[photo,ray]"
    python examples/score_with_ray.py photos/ --out scores/ --workers 8                              # this machine
    RAY_ADDRESS=auto python examples/score_with_ray.py /data/shards --out /data/scores --workers 200    # a cluster

The same command goes on after a kill, and scores again the parts whose files were removed. A part is a .tar file, or
--batch other photos, and its rows become one Parquet file. Columns: file; status: ok, no_face or damaged; reason, where
damaged; faces: the objects of `faceattr predict --json`. All machines must see SOURCE, DIR and weights under the same
paths: photos go from there to the worker, never through Ray.
"""

import argparse
import os
from collections import Counter
from pathlib import Path

from faceattr_fast import FaceAnalyzer, shipped_weights
from faceattr_fast.scoring import STATUSES, Part, ScoringJob

# Of the object store on this machine. Numbers of parts and counts go through it: Ray's least is 75 MiB.
STORE_BYTES = 100 << 20
# Of parts, which Ray hands out as a whole; the driver keeps an object for each.
MOST_BLOCKS = 10_000


class Worker:
    """An actor: it has loaded the network when it has unpickled the job, and scores one part after another."""

    def __init__(self, job: ScoringJob, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)  # its default is all CPUs, in every worker
        self.job = job

    def __call__(self, batch: dict) -> dict:
        """Numbers and offsets of parts → numbers and, for each status, counts."""
        parts = zip(batch["number"], batch["offset"], strict=True)
        counts = [self.job.score(Part(int(number), int(offset))) for number, offset in parts]
        return {"number": batch["number"], **{status: [count[status] for count in counts] for status in STATUSES}}


def score(job: ScoringJob, parts: list[Part], workers: int, threads: int) -> Counter:
    """Run the parts on a pool of workers; returns how many photos have each status."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray reports to nobody
    import ray

    if "RAY_ADDRESS" in os.environ:
        ray.init()
    else:
        ray.init("local", num_cpus=workers * threads, object_store_memory=STORE_BYTES, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Ray Data replaces a worker that dies and gives its block out again, as often as it takes. A worker has one block
    # at a time, so that none waits behind a slow one. Where there is room for fewer workers, those do the work.
    pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
    # Parts are in the driver already: a reader would want a CPU beside those of the workers, and wait for it for ever.
    rows = ray.data.from_items([part._asdict() for part in parts], override_num_blocks=min(len(parts), MOST_BLOCKS))
    scored = rows.map_batches(Worker, batch_size=1, fn_constructor_args=(job, threads), compute=pool, num_cpus=threads)
    total: Counter = Counter()
    for row in scored.iter_rows():
        number = row.pop("number")
        total.update(row)
        print(f"part {number}: {words(row)}", flush=True)
    return total


def words(counts: dict) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="photo, .tar file, or folder of both")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of Parquet files")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on all machines (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPUs of each (default: 1)")
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="photos of a part (default: 1000)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the package's demonstration weights")
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help="YuNet's model file")
    parser.add_argument("--embedding", action="store_true", help="also embeddings: they are biometric data")
    parser.add_argument("--sensitive", action="store_true", help="also emotion and ethnicity; prints a notice")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.threads) < 1:
        parser.error("--workers and --threads: expected at least 1")
    try:
        analyzer = FaceAnalyzer.load(
            arguments.weights or shipped_weights(), sensitive=arguments.sensitive, threads=arguments.threads,
            detector_model=arguments.detector_model,
        )  # fmt: skip
        job = ScoringJob(analyzer, arguments.out, arguments.embedding)
        parts = job.begin(arguments.sources, arguments.batch)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    print(f"{len(parts)} parts to score", flush=True)
    if parts:
        print(f"in this run: {words(score(job, parts, arguments.workers, arguments.threads))}")
    job.finish()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
