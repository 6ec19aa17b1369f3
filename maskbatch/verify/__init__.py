"""Check that a committed run is what it says.

files      verify_run: its files, and every image once
rows       rows against the plan and against themselves
faces      rows of faces against their pictures
sample     random images read again and scored again
compare    such an image against its committed rows
tolerance  how far an image scored again may be from its rows
result     counts and differences
"""
