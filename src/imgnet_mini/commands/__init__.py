"""One module per command; each has a `run` that the command line calls."""
