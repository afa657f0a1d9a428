"""Local training: one silo's side of a round, and what each silo does after the last round."""
