"""A trained model, ready for use."""
