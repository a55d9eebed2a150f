"""Training on several processes, one per GPU, started by torchrun."""
