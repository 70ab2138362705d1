"""Recipes, run directories, journals, reports."""
