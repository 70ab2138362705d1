"""Models in stages: on disk, at the nodes that serve them, and what is measured of them."""
