"""Realistic attacks on a run: membership inference, planted rows, and reconstruction of inputs."""
