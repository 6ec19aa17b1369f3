"""A month of four drawn cameras, or a week of four drawn lobbies, scored by the ordinary job.

month      which snapshots there are, and how they are drawn: frozen, dark and switched-off cameras
week       the same of lobbies, with people at any distance and a poster
archive    the drawn files on the disk, some of them spoilt
truth      what a run found beside what was drawn, an image at a time
sightings  the same, a face at a time
run        from nothing to the comparison
"""
