"""Public benchmarks, run in their own layout on folders that their owners publish."""
