"""Random weights of any network; nothing here needs torch."""

import numpy as np

from faceattr_fast.spec import BlockSpec, NetworkSpec, StemSpec


def random_tensors(spec, seed=0):
    """Weights that keep activations near 1; every norm moves and scales its channels. float32, by name."""
    rng = np.random.default_rng(seed)

    def values(name, shape):
        if name.endswith("running_var"):
            return rng.uniform(0.5, 2.0, shape)
        if name.endswith("bn.weight"):
            return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if len(shape) == 1:  # biases, running means
            return rng.normal(0, 0.3, shape)
        return rng.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)

    return {name: values(name, shape).astype(np.float32) for name, shape in spec.tensor_shapes().items()}


def one_block(*heads, stride=4, **options):
    """A stem of 8 channels, a block, an embedding of 16, and these heads."""
    return NetworkSpec(StemSpec(8), ((BlockSpec(8, 8, 16, stride),),), **{"embedding": 16, "heads": heads, **options})
