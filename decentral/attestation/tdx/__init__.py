"""Quotes of Intel's trust domains: read, checked with what their maker publishes, and made by a simulated processor."""
