"""Helpers that know nothing of training: files, streams, signals."""
