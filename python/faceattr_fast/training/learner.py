"""What training the base network learns: the network, and a vector per person where cosines decide who is who."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reference import FaceAttrNet
from ..spec import HeadSpec, NetworkSpec
from .batches import Batch
from .losses import cosine_loss_sum, head_loss_sum, head_loss_weight
from .recipes import Recipe

__all__ = ["Learner", "initialise", "pixels_of"]


@torch.no_grad()
def initialise(net: nn.Module, seed: int, expand_scale: float = 0.25) -> None:
    """He initialisation with small 3x3s: nothing normalises the residual stream; full blocks would blow it up."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            gain = {"expand": math.sqrt(2) * expand_scale, "shortcut": 1.0}.get(name.rpartition(".")[2], math.sqrt(2))
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, 0.3 / math.sqrt(module.in_features), generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def pixels_of(crops: Tensor, spec: NetworkSpec) -> Tensor:
    """uint8 [N, S, S, 3] as the network's float32 [N, 3, S, S], channels last in memory; on the same device."""
    mean, scale = (torch.tensor(values, device=crops.device) for values in (spec.pixels.mean, spec.pixels.scale))
    return ((crops.float() - mean) / scale).permute(0, 3, 1, 2)


class Learner(nn.Module):
    """The network under training and its losses.

    Args:
        net: with an identity layer exactly where the recipe's identities are ``linear``.
        people: number of identity classes, or 0.
        recipe: says how identities are learned.
        seed: of the people's vectors.
        precision: of the network's layers; losses are float32.
    """

    def __init__(
        self, net: FaceAttrNet, people: int, recipe: Recipe, seed: int, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.net, self.recipe, self.precision = net, recipe, precision
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(people, net.spec.embedding, generator=generator)
        self.people = nn.Parameter(vectors) if people and recipe.identity == "cosine" else None
        self.identifies = people > 0
        for head in net.spec.heads:
            trained = head.trained if head.trained is not None else (True,) * head.classes
            numbers = torch.tensor([i for i, is_trained in enumerate(trained) if is_trained])
            self.register_buffer(_trained(head), numbers, persistent=False)

    @property
    def heads(self) -> Sequence[HeadSpec]:
        return self.net.spec.heads

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """What the sum of each loss over these faces is to be divided by, once it is added up over all parts.

        ``batch`` lies on the learner's device.
        """
        weights = {
            head.name: head_loss_weight(batch.targets[head.name], head.kind, self.get_buffer(_trained(head)))
            for head in self.heads
        }
        if self.identifies:
            weights["identity"] = (batch.identity >= 0).sum().float()
        return weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of each loss; a head that no face of the batch has a label for gives 0."""
        pixels = pixels_of(batch.crops, self.net.spec)
        with torch.autocast(pixels.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = {name: values.float() for name, values in self.net(pixels).items()}
        sums = {
            head.name: head_loss_sum(
                outputs[head.name], batch.targets[head.name], head.kind, self.get_buffer(_trained(head))
            )
            for head in self.heads
        }
        if self.people is not None:
            recipe = self.recipe
            sums["identity"] = cosine_loss_sum(
                outputs["embedding"], self.people, batch.identity, recipe.identity_scale, recipe.identity_margin
            )
        elif self.identifies:
            sums["identity"] = F.cross_entropy(outputs["identity"], batch.identity, reduction="sum", ignore_index=-1)
        return sums


def _trained(head: HeadSpec) -> str:
    """Name of the buffer that holds the numbers of the head's trained classes."""
    return f"trained_{head.name}"
