"""What is minimised: one file per objective, each a function of trees, a batch and the samples' keys."""
