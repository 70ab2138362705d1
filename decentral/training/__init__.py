"""Local training, activations, BatchNorm re-estimation, merging, evaluation, checkpoints."""
