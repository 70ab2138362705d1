"""Datasets, partitions, clusters."""
