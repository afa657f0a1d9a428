"""An institution's folder and processes: settings, keys, approvals, egress log, and its part in a round."""
