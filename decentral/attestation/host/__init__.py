"""Who makes evidence of this machine: hardware, or a process that plays it and measures who asks."""
