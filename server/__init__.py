"""The coordinator's part of the app bundle."""
