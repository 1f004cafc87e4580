"""The report of a run: its start page in words, and one HTML file with every figure and table."""
