"""Runs rendered through a Jinja template into a README."""
