"""Encoded bytes, which may be hostile, to RGB; what is wrong with them becomes a status and a sentence.

kinds     what the first bytes claim
source    an image as read, and once its header was: size, EXIF, how to decode it; bounds of both
jpeg      segments and scans; what damage touches no pixel
huffman   what a JPEG's header says of its blocks and their codes
entropy   where the blocks of a JPEG's scan end: stray bytes or damage
png       chunks and checksums
tiff      directories and strips, before Pillow reads them
pillow    every format but JPEG and PNG
directory tags of TIFF and EXIF, and where their values stand
inflate   how much a zlib stream holds
exif      orientation and time
rgb       any mode to reduced RGB, in strips
images    bytes to RGB, of fixed size or whole
triage    which images go to a GPU as they are
quality   brightness, contrast, sharpness, perceptual hash
watch     which image is at work, and what ended the worker before
sandbox   decodes doubtful images in a process of its own
"""
