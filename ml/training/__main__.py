"""``python -m ml.training CONFIG``, and ``torchrun --nproc-per-node N -m ml.training CONFIG``."""

import os
import sys

from ml.cli import main

if __name__ == "__main__":
    code = main(["train", *sys.argv[1:]])
    if code == 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ml.training.distributed import end_at_once

        end_at_once()
    sys.exit(code)
