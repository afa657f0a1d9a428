"""Many silos on one machine: several ways of running the same jobs on the same bench."""
