"""Federated transfer learning between institutions that may not pool their data."""

__version__ = "0.1.0"
