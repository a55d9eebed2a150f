"""The files of a run: names, lock, logs, predictions."""
