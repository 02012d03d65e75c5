"""A step is the same however its rows are cut into batches and dealt to processes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ml.models import cell_encoder, past
from ml.models.past import LossWeights, Member
from ml.training.distributed import Ranks, end_at_once
from ml.training.engine import Optimisation
from ml.training.step import Step
from tests.ml.training.rows import ALL, batch, model, rows
from tests.ml.training.two import both_end


@pytest.fixture(autouse=True)
def all_genes_hidden(monkeypatch):
    """Which genes are hidden is drawn batch by batch; hiding all leaves nothing to draw."""
    monkeypatch.setattr(past, "MASKED_SHARE", 1.0)


def gradients(sizes: list[int], losses: LossWeights = ALL, dropout: float = 0.0):
    """Gradients and losses of one step over as many rows, cut into batches of these sizes."""
    member = model(dropout).networks()[0].train()
    trained(member, losses)
    of = rows(sum(sizes))
    step = Step.of(member, losses, Optimisation(precision="float32"), Ranks())
    places = torch.arange(sum(sizes)).split(sizes)
    found = step.gradients([batch(of, p, len(p)) for p in places], list(range(len(sizes))))
    return {n: p.grad for n, p in member.named_parameters() if p.grad is not None}, found


def trained(member: Member, losses: LossWeights) -> None:
    for name, parameter in member.named_parameters():
        parameter.requires_grad_(name.startswith(Member.used(losses)))


def agree(one, other, places: float = 1e-5):
    assert one.keys() == other.keys() and len(one) > 20
    for name, gradient in one.items():
        assert torch.allclose(gradient, other[name], rtol=1e-3, atol=places), name
    assert any(gradient.abs().max() > 1e-3 for gradient in one.values())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("sizes", [[8, 8, 8], [10, 9, 5]])
def test_accumulation_equals_the_large_batch(sizes, soft):
    losses = replace(ALL, soft_targets=soft)
    whole, one = gradients([24], losses)
    parts, three = gradients(sizes, losses)
    agree(whole, parts)
    assert set(one) == set(three) == {"expression", "counts", "contrast", "masked_gene"}
    for name in one:
        assert torch.allclose(one[name], three[name], rtol=1e-4), name


def test_without_contrast_batches_need_one_pass_only():
    losses = LossWeights(expression=1.0, counts=0.5, contrast=0.0, masked_gene=0.0)
    member = model().networks()[0].train()
    trained(member, losses)
    step = Step.of(member, losses, Optimisation(precision="float32"), Ranks())
    passes = []
    member.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    of = rows(12)
    step.gradients([batch(of, p, 4) for p in torch.arange(12).split(4)], [0, 1, 2])
    assert passes == [True] * 3


def test_both_passes_see_the_same_dropout():
    """With other dropout in the second pass, the sum of the losses would still look right, but the
    gradient would be of another function; a repeated step must give the same one."""
    first, _ = gradients([8, 8], dropout=0.3)
    again, _ = gradients([8, 8], dropout=0.3)
    other, _ = gradients([8, 8], dropout=0.0)
    for name, gradient in first.items():
        assert torch.equal(gradient, again[name]), name
    assert any(not torch.allclose(g, other[n], atol=1e-4) for n, g in first.items())


def test_gradient_of_the_accumulated_contrast_is_numerical():
    """The two-pass gradient with dropout on, against finite differences of the same function."""
    losses = LossWeights(expression=0.0, counts=0.0, contrast=1.0, masked_gene=0.0)
    member = model(0.3).double().networks()[0].train()
    trained(member, losses)
    of = rows(12)
    cast = [type(p)(*[v.double() if v is not None and v.is_floating_point() else v for v in p])
            for p in of]  # fmt: skip
    batches = [batch(tuple(cast), p, 6) for p in torch.arange(12).split(6)]  # type: ignore[arg-type]
    step = Step.of(member, losses, Optimisation(precision="float32"), Ranks())
    step.gradients(batches, [3, 4])
    weight = member.image_projection.projection.weight
    assert weight.grad is not None
    analytic, step_size = float(weight.grad[2, 3]), 1e-3
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 3] += sign * step_size
        values.append(float(step.gradients(batches, [3, 4])["contrast"]))
        with torch.no_grad():
            weight[2, 3] -= sign * step_size
    numerical = (values[0] - values[1]) / (2 * step_size)
    assert analytic == pytest.approx(numerical, rel=2e-2, abs=1e-5)


@pytest.mark.parametrize("sizes", [[12], [11], [7, 6]], ids=["even", "odd", "accumulated"])
def test_two_processes_give_the_gradients_of_one_with_the_double_batch(tmp_path, sizes):
    expected, losses = gradients(sizes)
    both = in_two_processes(tmp_path, sizes)
    for rank in range(2):
        agree(expected, load_file(tmp_path / f"rank{rank}.safetensors"))
    for name in losses:
        mean = sum(found[name] for found in both) / 2
        assert mean == pytest.approx(float(losses[name]), rel=1e-4), name


def in_two_processes(folder: Path, sizes: list[int]) -> list[dict[str, float]]:
    assert both_end("tests.ml.training.test_step", str(folder), *map(str, sizes)) == [0, 0]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def one_rank(folder: Path, sizes: list[int]) -> None:
    """What each of two processes does: its rows of each round, then its gradients to a file."""
    past.MASKED_SHARE = 1.0
    ranks = Ranks.join()
    write_gradients(ranks, folder, sizes)
    ranks.leave()
    end_at_once()


def write_gradients(ranks: Ranks, folder: Path, sizes: list[int]) -> None:
    from safetensors.torch import save_file

    member = model().networks()[0].train()
    trained(member, ALL)
    step = Step.of(member, ALL, Optimisation(precision="float32"), ranks)
    of = rows(sum(sizes))
    own = [p[ranks.rank :: 2] for p in torch.arange(sum(sizes)).split(sizes)]
    batches = [batch(of, p, size) for p, size in zip(own, sizes, strict=True)]
    losses = step.gradients(batches, list(range(len(sizes))))
    found = {n: p.grad for n, p in member.named_parameters() if p.grad is not None}
    save_file(found, folder / f"rank{ranks.rank}.safetensors")
    values = {name: float(value) for name, value in losses.items()}
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(values))


def test_masks_are_hidden_genes():
    tokens = torch.full((2, 3), 31)
    assert cell_encoder.masked(tokens, 1.0)[1].all()


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
