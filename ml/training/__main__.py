"""``python -m ml.training CONFIG``, and ``torchrun --nproc-per-node N -m ml.training CONFIG``."""

import sys

from ml.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
