"""Learners in other processes: a simulated run's training on many cores, or on many machines."""
