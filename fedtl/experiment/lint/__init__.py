"""What is untrue of an experiment's privacy, what to ask about it, and what holds."""
