"""Losses that bring a silo's second, unlabelled domain to its first. One small file each; terms.py is the table."""
