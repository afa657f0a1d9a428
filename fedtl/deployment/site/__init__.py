"""A site: its folder and processes, settings, approvals, egress record, and its answer to a round."""
