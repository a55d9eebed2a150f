"""Augmentations of whole training batches on their device."""
