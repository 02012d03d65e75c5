"""`past train`, `past calibrate`, `past ablate` and `past bench gpu`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ml.report import plain


def add_commands(commands: Any) -> None:
    """Adds `train`, `calibrate`, `ablate` and `bench` to the subparsers of `past`."""
    train = commands.add_parser(
        "train",
        help="train a model as a TOML file says; on several GPUs: torchrun … -m ml.training CONFIG",
    )
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("config", type=Path, nargs="?", help="the file (see --example)")
    what.add_argument("--example", action="store_true", help="print a config with all its keys")
    train.set_defaults(run=_train)
    ablate = commands.add_parser(
        "ablate", help="train a study's model without each of its parts in turn, and compare"
    )
    ablate.add_argument("config", type=Path, help="of a study, as for `past train`")
    ablate.add_argument("--variants", nargs="*", metavar="NAME", help="all of them by default")
    ablate.set_defaults(run=_ablate)
    calibrate = commands.add_parser(
        "calibrate", help="intervals, cell types and the shared way of a model trained on a corpus"
    )
    calibrate.add_argument("model", type=Path, help="folder that training wrote; written anew")
    calibrate.add_argument("studies", type=Path, nargs="+", help="that `past convert` wrote")
    calibrate.add_argument("--work", type=Path, help="for image features; MODEL/../work by default")
    calibrate.set_defaults(run=_calibrate)
    bench = commands.add_parser("bench", help="measure what this machine does")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")
    gpu = kinds.add_parser(
        "gpu", help="ViT-L/16 at 224 in bfloat16: images/s and share of the GPU's peak"
    )
    gpu.add_argument("--inference-batch", type=int, help="images of a forward pass")
    gpu.add_argument("--training-batch", type=int, help="images of a training step")
    gpu.add_argument("--steps", type=int, help="timed steps of each")
    gpu.add_argument("--no-compile", action="store_true", help="without torch.compile")
    gpu.set_defaults(run=_bench_gpu)


def _train(given: argparse.Namespace) -> int:
    if given.example:
        from ml.training.example import example

        print(example(), end="")
        return 0
    from ml.training.train_file import train_file

    result = train_file(given.config)
    if result is not None:
        print(json.dumps(plain(result)))
    return 0


def _ablate(given: argparse.Namespace) -> int:
    from ml.training.ablations import ablate_file

    print(ablate_file(given.config, tuple(given.variants) if given.variants else None))
    return 0


def _calibrate(given: argparse.Namespace) -> int:
    from ml.report import ConsoleReport
    from ml.training.calibrate import calibrate

    work = given.work or given.model.parent / "work"
    print(json.dumps(plain(calibrate(given.model, given.studies, work, ConsoleReport()))))
    return 0


def _bench_gpu(given: argparse.Namespace) -> int:
    import torch

    from ml.errors import InputError
    from ml.training.gpu_bench import Work, measure

    if not torch.cuda.is_available():
        raise InputError(
            "bench.no_gpu",
            "past bench gpu",
            f"PyTorch {torch.__version__} sees no CUDA device here.",
            "Run it on a machine with an NVIDIA GPU and a CUDA build of PyTorch.",
        )
    asked = {
        name: value
        for name in ("inference_batch", "training_batch", "steps")
        if (value := getattr(given, name)) is not None
    }
    found = measure(torch.device("cuda"), Work(**asked, compiled=not given.no_compile))
    print(json.dumps(plain(found), indent=1))
    return 0
