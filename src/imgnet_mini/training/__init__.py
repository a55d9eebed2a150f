"""From settings to a trained network: the step, the epoch, the run."""
