"""A month of four drawn cameras, scored by the ordinary job.

month   which snapshots there are, and how they are drawn: frozen, dark and switched-off cameras, spoilt files
truth   the run, and what it found beside what was drawn
"""
