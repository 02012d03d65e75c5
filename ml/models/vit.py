"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929) with timm's parameter names.

One implementation for all encoders: LayerScale (arXiv 2103.17239), registers (arXiv 2309.16588)
and SwiGLU perceptrons (arXiv 2002.05202) are options of its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ml.errors import InputError
from ml.models.encoders import register

CROP = 112
# The embeddings before the blocks; they are no matrices of a layer, so no optimiser decays them.
EMBEDDINGS = ("cls_token", "reg_token", "pos_embed")


@dataclass(frozen=True)
class Shape:
    """Everything that shapes a vision transformer.

    Attributes:
        size: side in px of the square image that the position embeddings are stored for.
        patch: side of a patch in px; divides `size`.
        dim, depth, heads: width, blocks, attention heads.
        hidden: width of a perceptron between its two layers; 0 for 4 × `dim`.
        swiglu: SwiGLU instead of GELU; its first layer is packed, gate first, 2 × `hidden` wide.
        layer_scale: what LayerScale starts at; None for none.
        registers: tokens beside the class token that stand for no patch.
        positions: which tokens have a position embedding: ``patches``; ``class`` and patches; or
            ``all``, class token, registers and patches.
        antialias: whether position embeddings are smoothed when their grid is made smaller, as
            timm does and transformers does not.
        pooling: the vector is the ``class`` token, or it and the ``class+mean`` of patch tokens.
    """

    size: int = CROP
    patch: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    hidden: int = 0
    swiglu: bool = False
    layer_scale: float | None = None
    registers: int = 0
    positions: Literal["patches", "class", "all"] = "class"
    antialias: bool = True
    pooling: Literal["class", "class+mean"] = "class"

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token and registers."""
        return 1 + self.registers

    @property
    def placed(self) -> int:
        """Tokens before the patches that have a position embedding."""
        return {"patches": 0, "class": 1, "all": self.prefix}[self.positions]

    @property
    def outputs(self) -> int:
        """Length of the pooled vector."""
        return self.dim * (2 if self.pooling == "class+mean" else 1)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))
        return out


class Mlp(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class SwiGLU(nn.Module):
    """Gated perceptron whose gate and value are one layer, the gate first."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(functional.silu(gate) * value)
        return out


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim, hidden = shape.dim, shape.hidden or 4 * shape.dim
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, shape.heads)
        self.ls1 = _layer_scale(shape)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SwiGLU(dim, hidden) if shape.swiglu else Mlp(dim, hidden)
        self.ls2 = _layer_scale(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


def _layer_scale(shape: Shape) -> nn.Module:
    if shape.layer_scale is None:
        return nn.Identity()
    return LayerScale(shape.dim, shape.layer_scale)


class PatchEmbed(nn.Module):
    """Linear embedding of square patches."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """ViT over square patches, as a vector per image or as a map of its patch tokens.

    An image of another size than ``shape.size`` is taken as it is: the position embeddings are
    interpolated bicubically to its grid.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        shape = self.shape = shape or Shape()
        places = (shape.size // shape.patch) ** 2 + shape.placed
        self.patch_embed = PatchEmbed(shape.patch, shape.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        if shape.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, shape.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, places, shape.dim))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=1e-6)
        self.checkpointing = False
        for name, parameter in self.named_parameters(recurse=False):
            if name in EMBEDDINGS:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) normalised, sides multiples of the patch → vectors (n, shape.outputs)."""
        tokens = self.tokens(image)
        if self.shape.pooling == "class":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self.shape.prefix :].mean(1)], dim=1)

    @torch.no_grad()
    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Patch tokens of normalised images as maps.

        Args:
            image: (n, 3, H, W); an edge that cuts a patch is continued with its last pixels.

        Returns:
            ``tokens`` → (n, dim, ⌈H / patch⌉, ⌈W / patch⌉) float32.
        """
        side = self.shape.patch
        right, below = -image.shape[3] % side, -image.shape[2] % side
        if right or below:
            image = functional.pad(image, (0, right, 0, below), mode="replicate")
        grid = (image.shape[2] // side, image.shape[3] // side)
        patches = self.tokens(image)[:, self.shape.prefix :]
        maps = patches.float().transpose(1, 2).reshape(len(image), self.shape.dim, *grid)
        return {"tokens": maps}

    def tokens(self, image: Tensor) -> Tensor:
        """All tokens after the last norm (n, 1 + registers + patches, dim), class token first.

        Raises:
            InputError ``image.size``: a side is no multiple of the patch.
        """
        side = self.shape.patch
        if image.ndim != 4 or image.shape[1] != 3 or any(s % side for s in image.shape[2:]):
            raise InputError(
                "image.size",
                "images",
                f"They have the shape {tuple(image.shape)}; this encoder has patches of {side} px.",
                f"Give (n, 3, h, w) with sides that are multiples of {side}.",
            )
        x = self._embed(image)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        out: Tensor = self.norm(x)
        return out

    def _embed(self, image: Tensor) -> Tensor:
        """Patches with their positions behind the class token and the registers."""
        grid = (image.shape[2] // self.shape.patch, image.shape[3] // self.shape.patch)
        patches = self.patch_embed(image)
        places = self._positions(grid)
        placed = self.shape.placed
        first: Tensor = self.cls_token
        if self.shape.registers:
            first = torch.cat([first, self.reg_token], dim=1)
        first = torch.cat([first[:, :placed] + places[:, :placed], first[:, placed:]], dim=1)
        first = first.to(patches.dtype).expand(len(patches), -1, -1)
        return torch.cat([first, patches + places[:, placed:]], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, placed + patches, dim) of a grid of patches (rows, columns)."""
        stored = self.shape.size // self.shape.patch
        if grid == (stored, stored):
            return self.pos_embed
        first, patches = self.pos_embed.tensor_split([self.shape.placed], dim=1)
        square = patches.float().reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(
            square, grid, mode="bicubic", align_corners=False, antialias=self.shape.antialias
        )
        return torch.cat([first, resized.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)


@register(
    name="vit_tiny",
    kind="crop",
    architecture="ViT-Ti/16, 112 px",
    dim=192,
    maps={"tokens": (16, 192)},
    patch=16,
    mpp=0.25,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    pooling="class token",
    licence="Apache-2.0",
    weights="none: trained from scratch, end to end",
    frozen=False,
)
def vit_tiny() -> nn.Module:
    """ViT-Ti/16 on crops of 112 px."""
    return VisionTransformer()


@register(
    name="vit_small",
    kind="crop",
    architecture="ViT-S/16, 112 px",
    dim=384,
    maps={"tokens": (16, 384)},
    patch=16,
    mpp=0.25,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    pooling="class token",
    licence="Apache-2.0",
    weights="none: trained from scratch, end to end",
    frozen=False,
)
def vit_small() -> nn.Module:
    """ViT-S/16 on crops of 112 px."""
    return VisionTransformer(Shape(dim=384, heads=6))
