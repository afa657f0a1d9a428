"""Helpers that know nothing of silos: files, randomness, tables of entries, settings."""
