"""`past bench gpu`: how fast the large image encoder runs, beside what the GPU can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ml.models.vit import Shape, VisionTransformer

VIT_LARGE = Shape(size=224, patch=16, dim=1024, depth=24, heads=16, layer_scale=1e-5)
# Dense bfloat16 TFLOP/s as NVIDIA's data sheets state them, by a part of the device's name.
NOMINAL = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0,
           "RTX 4090": 165.0}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What to measure; the defaults are for a data-centre GPU.

    Attributes:
        shape: of the transformer.
        inference_batch, training_batch: images.
        matrix: side of the square matrices whose product stands for the GPU's peak.
        steps: timed runs of each, after `warm_up` that are not timed.
        compiled: whether the transformer is compiled.
    """

    shape: Shape = VIT_LARGE
    inference_batch: int = 256
    training_batch: int = 128
    matrix: int = 8192
    steps: int = 20
    warm_up: int = 5
    compiled: bool = True


def measure(device: torch.device, work: Work | None = None) -> dict[str, Any]:
    """Images per second and share of the peak, in bfloat16.

    The peak is what a plain product of large bfloat16 matrices reaches in the same run; an image's
    operations are counted from the matrix products and attention that its passes do. Training is
    forward, backward and an AdamW step on all weights.

    Returns:
        device, matmul_tflops, nominal_tflops (None where unknown), forward_gflop_per_image,
        training_gflop_per_image, inference_images_per_s, training_images_per_s, inference_mfu,
        training_mfu (against the product), training_mfu_nominal, memory_gib of the training,
        compiled, inference_batch, training_batch.
    """
    work = work or Work()
    torch.manual_seed(0)
    peak = _matmul_rate(device, work)
    forward_flop, training_flop = flop_per_image(work.shape)
    network = VisionTransformer(work.shape).to(device)
    ready: nn.Module = torch.compile(network) if work.compiled else network  # type: ignore[assignment]
    inference = work.inference_batch / _inference_s(ready, device, work)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = work.training_batch / _training_s(ready, device, work)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    nominal = next((rate for part, rate in NOMINAL.items() if part in name), None)
    return {
        "device": name,
        "matmul_tflops": peak / 1e12,
        "nominal_tflops": nominal,
        "forward_gflop_per_image": forward_flop / 1e9,
        "training_gflop_per_image": training_flop / 1e9,
        "inference_images_per_s": inference,
        "training_images_per_s": training,
        "inference_mfu": inference * forward_flop / peak,
        "training_mfu": training * training_flop / peak,
        "training_mfu_nominal": training * training_flop / (nominal * 1e12) if nominal else None,
        "memory_gib": torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None,
        "compiled": work.compiled,
        "inference_batch": work.inference_batch,
        "training_batch": work.training_batch,
    }


def flop_per_image(shape: Shape) -> tuple[float, float]:
    """Floating-point operations of an image: forward, and forward with backward.

    Counted on the meta device, where nothing is computed.
    """
    with torch.device("meta"):
        network = VisionTransformer(shape)
        image = torch.empty(1, 3, shape.size, shape.size)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(image)
    with FlopCounterMode(display=False) as training:
        network(image).sum().backward()
    return float(forward.get_total_flops()), float(training.get_total_flops())


def _matmul_rate(device: torch.device, work: Work) -> float:
    """FLOP/s of a plain product of two square bfloat16 matrices."""
    n = work.matrix
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / _seconds(lambda: torch.matmul(a, b, out=out), device, work)


def _images(device: torch.device, count: int, work: Work) -> Tensor:
    side = work.shape.size
    return torch.randn(count, 3, side, side, device=device).contiguous(
        memory_format=torch.channels_last
    )


def _inference_s(network: nn.Module, device: torch.device, work: Work) -> float:
    images = _images(device, work.inference_batch, work)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            network(images)

    return _seconds(forward, device, work)


def _training_s(network: nn.Module, device: torch.device, work: Work) -> float:
    images = _images(device, work.training_batch, work)
    cuda = device.type == "cuda"
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=cuda)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return _seconds(step, device, work)


def _seconds(run: Callable[[], Any], device: torch.device, work: Work) -> float:
    """Seconds of one run; the device is waited for before and after all of them only."""
    for _ in range(work.warm_up):
        run()
    _wait(device)
    began = time.perf_counter()
    for _ in range(work.steps):
        run()
    _wait(device)
    return (time.perf_counter() - began) / work.steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
