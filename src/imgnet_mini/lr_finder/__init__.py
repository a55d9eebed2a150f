"""The learning-rate range test: its run, what its curve suggests, and what is saved of it."""
