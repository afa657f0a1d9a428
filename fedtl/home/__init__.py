"""An institution's folder: its settings, keys, durable state, approvals and record."""
