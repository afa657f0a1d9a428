"""Helpers that do not depend on silos: files, tensors, randomness, registries, settings."""
