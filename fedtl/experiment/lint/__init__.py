"""Checks the privacy of an experiment: what is unsound, what a person has to decide, and what holds."""
