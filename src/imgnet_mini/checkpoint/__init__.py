"""Checkpoints of a run: writing, verifying and reading them."""
