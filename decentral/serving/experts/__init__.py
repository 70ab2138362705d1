"""Diffusion experts that peers serve, and the pipeline that samples from them as one model."""
