"""The science: readers, the model, training, inference and evaluation. Knows no database."""

import os

# Threads that wait for each other sleep instead of spinning. Alone on a machine this costs a tenth;
# beside other processes on the same cores (web, workers, tests) spinning made steps 3.5 times as
# slow. The OpenMP runtime reads it once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
