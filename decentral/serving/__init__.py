"""Inference by several: experts that sample as one."""
