"""The coordinator's half of the app bundle."""
