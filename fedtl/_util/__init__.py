"""Helpers without knowledge of silos: files, tensors, randomness, registries, settings."""
