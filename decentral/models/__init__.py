"""Networks, and what is derived from a network's structure."""
