"""The network of a :class:`~faceattr_fast.NetworkSpec` in PyTorch, as given: nothing folded, nothing rewritten.

Its state dict has the tensor names of a weights file (plus torch's ``num_batches_tracked``, which is never stored).
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BN_EPS
from ..spec import BlockSpec, NetworkSpec
from ..weights import Weights, read_weights, write_weights

__all__ = ["FaceAttrNet", "load", "save"]


class Stem(nn.Module):
    """[N, 3, S, S] → [N, out, S/4, S/4]: 7x7 stride 2, batch norm, ReLU, 2x2 max pool (paper stage a)."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, out, 7, stride=2, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), 2, 2)


class Block(nn.Module):
    """Residual block, or only its second half (``reduces=False``) for a head that branches at an even convolution."""

    def __init__(self, spec: BlockSpec, reduces: bool = True) -> None:
        super().__init__()
        if reduces:
            self.reduce = nn.Conv2d(spec.in_, spec.mid, 1, bias=False)
            self.bn = nn.BatchNorm2d(spec.mid, eps=BN_EPS)
        self.expand = nn.Conv2d(spec.mid, spec.out, 3, stride=spec.stride, padding=1, bias=False)
        self.shortcut = nn.Conv2d(spec.in_, spec.out, 1, stride=spec.stride, bias=False) if spec.projects else None

    def mid(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.reduce(x)))

    def join(self, mid: Tensor, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return self.expand(mid) + x
        if self.training and self.shortcut.stride != (1, 1):
            # The same product on every other position: PyTorch 2.13's gradient of a strided 1x1 of up to eight channels
            # writes past its memory on CPUs with AVX-512.
            rows, columns = self.shortcut.stride
            return self.expand(mid) + F.conv2d(x[:, :, ::rows, ::columns], self.shortcut.weight)
        return self.expand(mid) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.mid(x), x)


class Bottleneck(nn.Module):
    """[N, C, h, w] → [N, embedding]: global average pool, 1x1, batch norm (paper stage g)."""

    def __init__(self, in_channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, 1, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x.mean((2, 3), keepdim=True))).flatten(1)


class Head(nn.Module):
    """A head's own copy of every layer from its branch point on; an absent layer is shared with the trunk."""

    def __init__(self, net: NetworkSpec, classes: int, branch_index: int) -> None:
        super().__init__()
        count = len(net.blocks)
        self.stem = Stem(net.stem.out) if branch_index == 0 else None
        self.blocks = _NamedModules(
            {
                str(i): Block(block, reduces=2 * i - 1 >= branch_index)
                for i, block in enumerate(net.blocks, start=1)
                if 2 * i >= branch_index
            }
        )
        self.bottleneck = Bottleneck(net.trunk_channels, net.embedding) if branch_index <= 2 * count + 1 else None
        self.fc = nn.Linear(net.embedding, classes)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits [N, classes] of what the layers at the branch point read.

        Args:
            inputs: ``pixels``, ``block_input``, ``mid`` and ``block_input``, ``pooled`` or ``embedding``, as
                ``FastForward.features`` gives them, but NCHW.
        """
        if self.bottleneck is None:
            return self.fc(inputs["embedding"])
        if self.stem is not None:
            stream = self.stem(inputs["pixels"])
        else:
            stream = inputs["pooled"] if "pooled" in inputs else inputs["block_input"]
        block: Any
        for block in self.blocks.children():
            # An even branch point starts inside a block; every later one is whole.
            stream = block(stream) if hasattr(block, "reduce") else block.join(inputs["mid"], stream)
        return self.fc(self.bottleneck(stream))


class _NamedModules(nn.Module):
    """nn.ModuleDict refuses names that it has as methods ('items', 'pop'); a head may be called so."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(modules)

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def get(self, name: str) -> Any:
        return self._modules.get(name)


class FaceAttrNet(nn.Module):
    """The trunk and every head of ``spec``.

    ``forward`` takes float ``[N, 3, S, S]`` pixels, normalised as ``spec.pixels`` says, and returns a dict:
    ``embedding`` [N, E], ``identity`` [N, identities] if there is that layer, and raw logits [N, classes] per head.

    Args:
        spec: any network.
        seed: initial weights are the paper's: Gaussian, mean 0, variance 0.01; norms 1 and 0, linear biases 0.
    """

    def __init__(self, spec: NetworkSpec, seed: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.stem = Stem(spec.stem.out)
        self.blocks = _NamedModules({str(i): Block(block) for i, block in enumerate(spec.blocks, start=1)})
        self.bottleneck = Bottleneck(spec.trunk_channels, spec.embedding)
        heads = {head.name: Head(spec, head.classes, spec.branch_index(head.branch)) for head in spec.heads}
        if spec.identities is not None:
            heads["identity"] = Head(spec, spec.identities, spec.branch_index("fc"))
        self.heads = _NamedModules(dict(heads))
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int | None = None) -> None:
        """The paper's initialisation: weights from a Gaussian with mean 0 and variance 0.01."""
        generator = torch.Generator().manual_seed(torch.seed() if seed is None else seed)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0.0, 0.1, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stream = self.stem(x)
        streams, mids = [stream], []  # what a head at conv{2i+1} and conv{2i} reads
        for i in range(1, len(self.spec.blocks) + 1):
            block = self.blocks[str(i)]
            mids.append(block.mid(stream))
            stream = block.join(mids[-1], stream)
            streams.append(stream)
        embedding = self.bottleneck(stream)
        outputs = {"embedding": embedding}
        if self.spec.identities is not None:
            outputs["identity"] = self.heads["identity"].fc(embedding)
        for head in self.spec.heads:
            inputs = self._head_inputs(self.spec.branch_index(head.branch), x, streams, mids, embedding)
            outputs[head.name] = self.heads[head.name](inputs)
        return outputs

    def _head_inputs(
        self, branch: int, x: Tensor, streams: list[Tensor], mids: list[Tensor], embedding: Tensor
    ) -> dict[str, Tensor]:
        """What the layers at a branch point read, by the names of ``FastForward.features``; NCHW."""
        blocks = len(self.spec.blocks)
        if branch == 0:
            return {"pixels": x}
        if branch == 2 * blocks + 2:
            return {"embedding": embedding}
        if branch == 2 * blocks + 1:
            return {"pooled": streams[-1]}  # not yet: the bottleneck pools, and a map of one pixel stays as it is
        inputs = {"block_input": streams[(branch - 1) // 2]}
        return inputs if branch % 2 else {**inputs, "mid": mids[branch // 2 - 1]}


def tensors_of(net: FaceAttrNet) -> dict[str, np.ndarray]:
    """The module's tensors by their names in a weights file, float32."""
    return {
        name: value.detach().to("cpu", torch.float32).numpy()
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def save(
    net: FaceAttrNet, path: str | PathLike[str], dtype: str = "float32", metadata: dict[str, Any] | None = None
) -> None:
    """Write the weights as safetensors.

    Args:
        net: the module; its spec travels in the file's metadata.
        path: file to write; replaced only once the new file is complete.
        dtype: ``float32`` or ``float16`` storage.
        metadata: further keys for the file's ``faceattr`` entry (licence, trained_on, …).
    """
    write_weights(path, Weights(net.spec, tensors_of(net), metadata or {}), dtype=dtype)


def load(path: str | PathLike[str]) -> FaceAttrNet:
    """The module of a weights file, in evaluation mode. Raises WeightsError as ``FastForward.load`` does."""
    weights = read_weights(path)
    return module_of(weights, weights.spec)


def module_of(weights: Weights, spec: NetworkSpec) -> FaceAttrNet:
    """The module of ``spec``, a part of what ``weights`` hold, in evaluation mode."""
    net = FaceAttrNet(spec, seed=0)
    state = {name: torch.from_numpy(np.array(value)) for name, value in weights.tensors.items()}
    net.load_state_dict(state, strict=False)  # names were checked; num_batches_tracked is absent, a head may be over
    return net.eval()
