"""The results of runs, comparisons and audits, and the plan of an experiment: one type for each JSON file. Imports no torch."""
