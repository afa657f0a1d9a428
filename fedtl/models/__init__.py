"""Models: how they are built and split, and the role of each of their tensors."""
