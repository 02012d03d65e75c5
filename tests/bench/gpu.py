"""The large image encoder on a GPU; nothing to measure where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.registry import Row, benchmark


@benchmark("vitl_h200")
def vitl_h200(folder: Path) -> Iterator[Row]:
    """Images/s of ViT-L/16 at 224 in bfloat16, and the share of a plain matrix product's rate that
    training reaches. `baseline` of the share is that of the nominal rate."""
    import torch

    from ml.training.gpu_bench import measure

    if not torch.cuda.is_available():
        print("No GPU: vitl_inference_h200 and train_mfu_h200 are not measured.")
        return
    found = measure(torch.device("cuda"))
    print(found)
    inference = found["inference_images_per_s"]
    yield Row("vitl_inference_h200", inference, "images/s", ratio=found["inference_mfu"])
    yield Row("vitl_training_h200", found["training_images_per_s"], "images/s")
    yield Row(
        "train_mfu_h200", found["training_mfu"], "share", baseline=found["training_mfu_nominal"]
    )
