"""What runs at an institution (site) and at the coordinator."""
