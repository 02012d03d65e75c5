"""Neighbourhood: the nearest rows, attended to by similarity and distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Neighbourhood(nn.Module):
    """Attention of a row to itself and its neighbours, with a learned fall with distance.

    Each head has its own length scale: attention logits lose distance / length. The result is
    added to the row, so a row without neighbours keeps its own embedding.

    Args:
        dim: embedding width.
        heads: attention heads; divides `dim`.
        length_um: length scale that the heads start from, spread by factors of two around it.
    """

    def __init__(self, dim: int, heads: int, length_um: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)  # training starts from each row by itself
        self.drop = nn.Dropout(dropout)
        spread = torch.linspace(-1.0, 1.0, heads) if heads > 1 else torch.zeros(1)
        self.log_length = nn.Parameter(torch.log(length_um * 2.0**spread))

    def forward(
        self, centre: Tensor, neighbours: Tensor, distance_um: Tensor, absent: Tensor
    ) -> Tensor:
        """Mix each row with its neighbours.

        Args:
            centre: (n, dim).
            neighbours: (n, k, dim).
            distance_um: (n, k) distance of each neighbour.
            absent: (n, k) True where there is no such neighbour.

        Returns:
            (n, dim). The order of the neighbours does not matter.
        """
        n, _, dim = neighbours.shape
        keys = torch.cat([centre[:, None], neighbours], dim=1)
        distance = torch.cat([distance_um.new_zeros(n, 1), distance_um], dim=1)
        hidden = torch.cat([absent.new_zeros(n, 1), absent], dim=1)

        def split(x: Tensor) -> Tensor:
            return x.reshape(n, -1, self.heads, dim // self.heads).transpose(1, 2)

        query, key = split(self.query(centre)[:, None]), split(self.key(keys))
        logits = (query @ key.transpose(-1, -2)) / (dim // self.heads) ** 0.5
        fall = distance[:, None, None, :] / self.log_length.exp().view(1, -1, 1, 1)
        logits = (logits - fall).masked_fill(hidden[:, None, None, :], float("-inf"))
        mixed = (logits.softmax(-1) @ split(self.value(keys))).transpose(1, 2).reshape(n, dim)
        out: Tensor = centre + self.drop(self.out(mixed))
        return out
