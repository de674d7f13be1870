"""The parts of paper_tables.py, the paper's experiments at small scale."""
