"""State, optimizer, step, checkpoints and loop of training; it knows no objective by name."""
