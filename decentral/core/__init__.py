"""Mathematics: tensors and scalars in, tensors and scalars out. No I/O, clock, configuration or global random state."""
