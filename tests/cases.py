"""Networks with calibrated ranges, and plans of any formats in the engine: shared by tests of int8 and mixed."""

import numpy as np
from networks import normalise, random_net, random_pixels
from random_specs import names_of_outputs

from faceattr_fast.engine.backend import compile_plan
from faceattr_fast.formats.quantize import calibrate, quantize_plan
from faceattr_fast.plan.phases import LinearHead, ShiftedMeans
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of


class Case:
    """A network with its ranges, and its plans in floats and integers."""

    def __init__(self, spec, seed, images=3):
        self.spec, self.net = spec, random_net(spec, seed)
        self.tensors = tensors_of(self.net)
        self.pixels = random_pixels(spec, images, seed)
        self.x = normalise(self.pixels, spec)
        self.ranges = calibrate(spec, self.tensors, self.pixels, threads=1)

    def plan(self, rewrite=True, outputs=None):
        return build_plan(self.spec, self.tensors, outputs or names_of_outputs(self.spec), rewrite=rewrite)

    def quantised_plan(self, rewrite=True, outputs=None):
        return quantize_plan(self.plan(rewrite, outputs), self.ranges)


def run_engine(plan, pixels, isa="", threads=1):
    """Every output of the plan, maps (float32 NHWC, integers by their scale) as well as vectors."""
    vectors = {phase.dst for phase in plan.phases if isinstance(phase, (ShiftedMeans, LinearHead))}
    arrays = {}
    for name, output in plan.outputs.items():
        shape = plan.tensors[output.tensor]
        spatial = () if output.tensor in vectors else (shape.height, shape.width)
        arrays[name] = np.empty((len(pixels), *spatial, output.count), np.float32)
    compile_plan(plan, threads, isa).run(pixels, list(arrays.values()))
    return arrays
