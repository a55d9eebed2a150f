"""Packs: datasets of decoded and resized images for fast training."""
