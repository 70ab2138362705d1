"""A run's peers as actors of a Ray cluster, which places them, and places them anew when a machine dies."""
