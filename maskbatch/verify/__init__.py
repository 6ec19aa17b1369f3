"""Check that a committed run is what it says.

- `files`: its files, its plan, and that every image is there once. Begin here: `verify_run`.
- `rows`: scores rows against the plan and against themselves.
- `sample`: random images read from the archive and scored again.
- `result`: counts, and differences.
"""
