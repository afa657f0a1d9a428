"""What does a model predict: its loss, its outputs, its metrics, and how the answers of several models are mixed."""
