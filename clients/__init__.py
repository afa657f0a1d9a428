"""The sites' part of the app bundle."""
