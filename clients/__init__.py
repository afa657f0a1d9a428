"""The institutions' half of the app bundle."""
