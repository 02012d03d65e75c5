"""Ranks of the true partner among candidates."""

import torch

from ml.evaluation.retrieval import ranks


def test_partners_that_match_rank_first_and_constant_embeddings_in_the_middle():
    unit = torch.eye(5)
    forward, backward = ranks(unit, unit)
    # Another partner of the same score counts half: none here but the true one.
    assert forward.tolist() == [0.0] * 5 and backward.tolist() == [0.0] * 5
    same = torch.ones(5, 3)
    assert ranks(same, same)[0].tolist() == [2.0] * 5


def test_the_two_directions_are_told_apart():
    image, cell = torch.eye(2), torch.tensor([[0.5, 0.0], [0.6, 0.7]])
    forward, backward = ranks(image, cell)
    assert forward.tolist() == [1.0, 0.0] and backward.tolist() == [0.0, 0.0]
