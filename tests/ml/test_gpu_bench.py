"""`past bench gpu`: what it counts, that it measures, and that it says when it cannot."""

from __future__ import annotations

import pytest
import torch

from ml.cli import main
from ml.models.vit import Shape
from ml.training.gpu_bench import VIT_LARGE, Work, flop_per_image, measure


def test_operations_of_an_image_are_those_of_its_matrix_products() -> None:
    shape = Shape(size=32, patch=16, dim=24, depth=2, heads=2)
    tokens, dim = 5, 24
    patches = 2 * 4 * (3 * 16 * 16) * dim
    block = 2 * tokens * (3 + 1 + 4 + 4) * dim * dim + 2 * 2 * tokens * tokens * dim
    forward, training = flop_per_image(shape)
    assert forward == patches + 2 * block
    # Each product is done twice more in the backward pass; pixels need no gradient.
    assert training == 3 * forward - patches


def test_vit_large_has_the_published_operations() -> None:
    forward, training = flop_per_image(VIT_LARGE)
    assert forward / 2e9 == pytest.approx(61.6, abs=0.1)  # GMAC
    assert training == pytest.approx(3 * forward, rel=0.01)


def test_the_measurement_runs_anywhere() -> None:
    tiny = Work(Shape(size=32, patch=16, dim=32, depth=1, heads=2), 4, 2, 64, 2, 1, compiled=False)
    found = measure(torch.device("cpu"), tiny)
    assert found["inference_images_per_s"] > 0 and found["training_images_per_s"] > 0
    assert found["inference_mfu"] == pytest.approx(
        found["inference_images_per_s"]
        * found["forward_gflop_per_image"]
        / found["matmul_tflops"]
        / 1e3
    )
    assert found["nominal_tflops"] is None and found["training_mfu_nominal"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 3
    said = capsys.readouterr().err
    assert "no CUDA device" in said and "NVIDIA" in said
