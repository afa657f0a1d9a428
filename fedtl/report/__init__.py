"""What a run or a comparison found, for people: terminal tables, plots, one self-contained HTML page."""
