"""Differential privacy: noise, clipping and accounting, and the ledger of what was spent on each dataset."""
