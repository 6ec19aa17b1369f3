"""From plan rows to scores rows, without Ray.

read      plan rows to encoded bytes, neighbours by one request
kinds     what the first bytes claim
source    an image whose header was read: size, EXIF, and how to decode it; bounds of both
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
decode    bytes to RGB, of fixed size or whole, or a status and a sentence
quality   brightness, contrast, sharpness, perceptual hash
scene     whole scenes: frames, faces, crops
networks  the classifier, and the detector before it, on one device
rows      scores rows of images, and of scenes and their faces
shard     the images of one shard
watch     which image is at work, and what ended the worker before
guard     says where the pictures of a run do not fit its view
glance    what a sample of them shows
sandbox   decodes doubtful images in a process of its own
"""
