"""Pathology foundation encoders, each loading its owner's weights from a local file.

Each is listed because a test holds its output, with random weights in its owner's key names,
against an implementation that is not ours. Facts are the owners' model cards' and configs'.
All give a vector per crop and a map of patch tokens; a crop of another size than the encoder was
trained on is taken as it is, its position embeddings interpolated bicubically.

SwiGLU is packed as timm packs it: the first layer is ``dim × mlp_ratio`` wide (5.3375 in Virchow2,
else 5.33334), half gate, half value; `Shape.hidden` is that half.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ml.models import encoders, foundation_layouts
from ml.models.conch import ConchImage
from ml.models.encoders import register
from ml.models.foundation_files import Weights, fill, find, read_tensors, sha256, with_grid
from ml.models.vit import Shape, VisionTransformer

Statistics = dict[str, Any]
TIMM_FILES = ("pytorch_model.bin", "model.safetensors")
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")


def _in_255(*values: float) -> tuple[float, float, float]:
    """Owners state means and deviations for 0..1; images here are 0..255."""
    red, green, blue = (255 * value for value in values)
    return red, green, blue


IMAGENET: Statistics = {"mean": _in_255(0.485, 0.456, 0.406), "std": _in_255(0.229, 0.224, 0.225)}
BIOPTIMUS: Statistics = {
    "mean": _in_255(0.707223, 0.578729, 0.703617),
    "std": _in_255(0.211883, 0.230117, 0.177517),
}
HALVES: Statistics = {"mean": _in_255(0.5, 0.5, 0.5), "std": _in_255(0.5, 0.5, 0.5)}
OPENAI: Statistics = {
    "mean": _in_255(0.48145466, 0.4578275, 0.40821073),
    "std": _in_255(0.26862954, 0.26130258, 0.27577711),
}
NON_COMMERCIAL = "CC-BY-NC-ND-4.0"

UNI = Shape(size=224, patch=16, dim=1024, depth=24, heads=16, layer_scale=1e-5)
UNI2_H = Shape(
    size=224, patch=14, dim=1536, depth=24, heads=24, hidden=4096, swiglu=True,
    layer_scale=1e-5, registers=8, positions="patches",
)  # fmt: skip
VIRCHOW2 = Shape(
    size=224, patch=14, dim=1280, depth=32, heads=16, hidden=3416, swiglu=True,
    layer_scale=1e-5, registers=4, positions="all", pooling="class+mean",
)  # fmt: skip
H_OPTIMUS_0 = Shape(
    size=224, patch=14, dim=1536, depth=40, heads=24, hidden=4096, swiglu=True,
    layer_scale=1e-5, registers=4, positions="patches",
)  # fmt: skip
H0_MINI = Shape(
    size=224, patch=14, dim=768, depth=12, heads=12, hidden=2048, swiglu=True,
    layer_scale=1e-5, registers=4, positions="patches", pooling="class+mean",
)  # fmt: skip
MIDNIGHT = Shape(
    size=224, patch=14, dim=1536, depth=40, heads=24, hidden=4096, swiglu=True,
    layer_scale=1.0, antialias=False, pooling="class+mean",
)  # fmt: skip
PHIKON = Shape(size=224, patch=16, dim=768, depth=12, heads=12, antialias=False)
CONCH = Shape(size=448, patch=16, dim=768, depth=12, heads=12)


def read_transformer(
    shape: Shape, path: Path, translate: Callable[[Weights], Weights]
) -> VisionTransformer:
    """The transformer of an owner's file, frozen, in eval mode; errors as `foundation_files`."""
    weights = translate(read_tensors(path))
    fitted = with_grid(shape, weights)
    return fill(lambda: VisionTransformer(fitted), weights, str(path))


def read_conch(shape: Shape, path: Path, **sizes: int) -> ConchImage:
    """CONCH's image tower of its owner's file, frozen, in eval mode."""
    weights = foundation_layouts.conch(read_tensors(path))
    fitted = with_grid(shape, weights, "trunk.pos_embed")
    return fill(lambda: ConchImage(fitted, **sizes), weights, str(path))


def _load(name: str, path: Path | None, read: Callable[[Path], nn.Module]) -> nn.Module:
    """The module of the file that is given or found, with the file's hash on it."""
    file = find(encoders.get(name), path)
    module = read(file)
    module.weights_sha256 = sha256(file)  # type: ignore[assignment]
    return module


def _list(
    name: str,
    shape: Shape,
    translate: Callable[[Weights], Weights] = foundation_layouts.timm,
    **facts: Any,
) -> None:
    """Lists a vision transformer."""
    both = shape.pooling == "class+mean"
    pooling = "class token beside the mean of the patch tokens" if both else "class token"

    @register(
        name=name,
        kind="dense",
        dim=shape.outputs,
        maps={"tokens": (shape.patch, shape.dim)},
        patch=shape.patch,
        mpp=0.5,
        pooling=pooling,
        outline=lambda: VisionTransformer(shape),
        **facts,
    )
    def build(path: Path | None = None) -> nn.Module:
        return _load(name, path, lambda file: read_transformer(shape, file, translate))


_list(
    "uni",
    UNI,
    architecture="ViT-L/16 with LayerScale, 224 px",
    **IMAGENET,
    precision="float16",
    licence=NON_COMMERCIAL,
    gated=True,
    weights="huggingface.co/MahmoodLab/UNI",
    files=TIMM_FILES,
)
_list(
    "uni2_h",
    UNI2_H,
    architecture="ViT-H/14 with LayerScale, SwiGLU and 8 registers, 224 px",
    **IMAGENET,
    precision="bfloat16",
    licence=NON_COMMERCIAL,
    gated=True,
    weights="huggingface.co/MahmoodLab/UNI2-h",
    files=TIMM_FILES,
)
_list(
    "virchow2",
    VIRCHOW2,
    architecture="ViT-H/14 with LayerScale, SwiGLU and 4 registers, 224 px",
    **IMAGENET,
    precision="float16",
    licence=NON_COMMERCIAL,
    gated=True,
    weights="huggingface.co/paige-ai/Virchow2",
    files=TIMM_FILES,
)
_list(
    "h_optimus_0",
    H_OPTIMUS_0,
    architecture="ViT-g/14 with LayerScale, SwiGLU and 4 registers, 224 px",
    **BIOPTIMUS,
    precision="float16",
    licence="Apache-2.0",
    gated=True,
    weights="huggingface.co/bioptimus/H-optimus-0",
    files=TIMM_FILES,
)
_list(
    "h0_mini",
    H0_MINI,
    architecture="ViT-B/14 with LayerScale, SwiGLU and 4 registers, 224 px",
    **BIOPTIMUS,
    precision="float16",
    licence=NON_COMMERCIAL,
    gated=True,
    weights="huggingface.co/bioptimus/H0-mini",
    files=TIMM_FILES,
)
_list(
    "midnight_12k",
    MIDNIGHT,
    foundation_layouts.dinov2,
    architecture="ViT-g/14 with LayerScale and SwiGLU (DINOv2), 224 px",
    **HALVES,
    licence="MIT",
    weights="huggingface.co/kaiko-ai/midnight",
    files=TRANSFORMERS_FILES,
)
_list(
    "phikon",
    PHIKON,
    foundation_layouts.transformers_vit,
    architecture="ViT-B/16, 224 px",
    **IMAGENET,
    licence="Owkin's licence for non-commercial use",
    weights="huggingface.co/owkin/phikon",
    files=TRANSFORMERS_FILES,
)


@register(
    name="conch",
    kind="dense",
    architecture="ViT-B/16 under an attentional pooler (image tower of a CoCa), 448 px",
    dim=512,
    maps={"tokens": (CONCH.patch, CONCH.dim)},
    patch=CONCH.patch,
    mpp=0.5,
    **OPENAI,
    pooling="one learnt query attends to all tokens; not projected to the space of texts",
    licence=NON_COMMERCIAL,
    gated=True,
    weights="huggingface.co/MahmoodLab/CONCH",
    files=("pytorch_model.bin",),
    outline=lambda: ConchImage(CONCH),
)
def conch(path: Path | None = None) -> nn.Module:
    """CONCH's image tower."""
    return _load("conch", path, lambda file: read_conch(CONCH, file))
