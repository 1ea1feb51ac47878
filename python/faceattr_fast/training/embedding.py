"""A last step for verification: whiten what varies within a person, without changing any attribute."""

from __future__ import annotations

import numpy as np
import torch

from ..reference import FaceAttrNet

__all__ = ["transform_embedding", "within_person_whitening"]


def within_person_whitening(
    embedding: np.ndarray, people: np.ndarray, ridge: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix W, [E, E], and mean m, [E], such that the scatter of W (x - m) within a person is nearly round.

    Directions in which pictures of one person differ (pose, light, expression) then count less in a cosine than those
    in which people differ.

    Args:
        embedding: float [N, E] of training faces.
        people: [N] names; a person with one picture tells nothing about the scatter, only about the mean.
        ridge: share of the mean variance that is added to every direction, against noise in small ones.

    Raises:
        ValueError: nobody has two pictures.
    """
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), embedding.shape[1]))
    np.add.at(sums, person, embedding)
    centres = sums / counts[:, None]
    repeated = counts[person] > 1
    if not repeated.any():
        raise ValueError("within_person_whitening: nobody has two pictures")
    # A person with many pictures must not stand for all: each counts by the square root of their number.
    weight = (counts[person] ** -0.5)[repeated]
    deviation = (embedding - centres[person])[repeated] * np.sqrt(weight)[:, None]
    scatter = deviation.T @ deviation / weight.sum()
    scatter += ridge * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    values, vectors = np.linalg.eigh(scatter)
    return (vectors / np.sqrt(values)) @ vectors.T, centres.mean(0)


@torch.no_grad()
def transform_embedding(net: FaceAttrNet, matrix: np.ndarray, mean: np.ndarray, embedding: np.ndarray) -> None:
    """Make ``net`` give matrix @ (embedding - mean), in place, and the same logits as before.

    The map goes into the trunk's bottleneck and its inverse into the linear layers at ``fc``.

    Args:
        net: in evaluation mode.
        matrix: [E, E], invertible.
        mean: [E].
        embedding: float [N, E], the embedding as it was on many faces: sets the new batch-norm statistics.
    """
    turn, shift = torch.from_numpy(matrix), torch.from_numpy(np.asarray(mean, np.float64))
    state = net.state_dict()  # shares its memory with the module
    weight, gain, bias, old_mean, old_variance = (
        state[f"bottleneck.{name}"]
        for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    # embedding = scale * (conv(x) - old_mean) + bias. Scale and map move into the convolution; the norm gets the
    # statistics of its new input and a gain that undoes its division, so that training can go on from here.
    scale = gain.double() / (old_variance.double() + net.bottleneck.bn.eps).sqrt()
    weight.copy_((turn @ (scale[:, None] * weight.double().flatten(1))).reshape(weight.shape))
    bias.copy_(turn @ (bias.double() - shift))
    old_mean.copy_(turn @ (scale * old_mean.double()))
    old_variance.copy_(torch.from_numpy(np.var(embedding @ matrix.T, axis=0)))
    gain.copy_((old_variance.double() + net.bottleneck.bn.eps).sqrt())

    inverse = torch.linalg.inv(turn)
    readers = [head.name for head in net.spec.heads if head.branch == "fc"]
    for name in readers + (["identity"] if net.spec.identities is not None else []):
        fc_weight, fc_bias = (state[f"heads.{name}.fc.{part}"] for part in ("weight", "bias"))
        fc_bias.add_((fc_weight.double() @ shift).float())
        fc_weight.copy_(fc_weight.double() @ inverse)
