"""Simulation: many silos on one machine or cluster."""
