"""Attacks on an actual run, and what they say about the epsilon that it claims."""
