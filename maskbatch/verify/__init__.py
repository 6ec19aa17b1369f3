"""Check that a committed run is what it says.

files    verify_run: its files, and every image once
rows     rows against the plan and against themselves
sample   random images read again and scored again
result   counts and differences
"""
