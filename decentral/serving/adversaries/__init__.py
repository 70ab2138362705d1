"""Replicas that break one rule each, and trials that count who is caught."""
