"""What came of a run or a comparison, and what an experiment would do: one type for each JSON file. Imports no torch."""
