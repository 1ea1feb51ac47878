"""Measure what one CPU takes for a photo, step by step.

    python examples/photo_cost.py some/of/your/photos/*.jpg

docs/scale.md reckons with these times. Run it on a machine of the kind that is to do the work, and idle.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from faceattr_fast import FaceAnalyzer
from faceattr_fast.photo import align, crop_box, load_image

BATCH = 32  # faces of a call, as FaceAnalyzer makes them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="as those that are to be scored")
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help="YuNet's model file")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    analyzer = FaceAnalyzer.load(threads=1, detector_model=arguments.detector_model)
    analyzer.predict(arguments.photos[0])  # what is done once is done now
    seconds: Counter[str] = Counter()
    crops = []
    for path in arguments.photos:
        times = [time.perf_counter()]
        image = load_image(path)
        times.append(time.perf_counter())
        found = analyzer.detector.detect(image)
        times.append(time.perf_counter())
        for face in found:
            crops.append(
                crop_box(image, face.box, analyzer.template)
                if face.landmarks is None
                else align(image, face.landmarks, analyzer.template)
            )
        times.append(time.perf_counter())
        for step, passed in zip(("read and decode", "find faces", "crop"), np.diff(times), strict=True):
            seconds[step] += passed
    for start in range(0, len(crops), BATCH):
        begun = time.perf_counter()
        analyzer.fast(np.stack(crops[start : start + BATCH]))
        seconds["network"] += time.perf_counter() - begun
    photos = len(arguments.photos)
    print(f"{photos} photos, {len(crops) / photos:.2f} faces each, detector {analyzer.detector.name}")
    for step, total in [*seconds.items(), ("all", seconds.total())]:
        print(f"{step:16} {1000 * total / photos:8.2f} ms a photo")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
