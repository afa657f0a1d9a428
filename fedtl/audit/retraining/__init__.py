"""Checks that train one round at a silo again and again, with one thing changed."""
