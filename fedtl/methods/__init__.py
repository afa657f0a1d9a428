"""Methods and losses, one file each: what a silo shares, minimises and keeps, and what it does after the last round."""
