"""From a recipe to running peers."""
