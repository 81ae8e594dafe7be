"""The mathematics of sampling and training: path, schedule, guidance, solver."""
