"""From plan rows to scores rows, without Ray.

read      plan rows to encoded bytes, neighbours by one request
decode    bytes to fixed-size RGB, or a status and a sentence
quality   brightness, contrast, sharpness, perceptual hash
shard     the work on one shard
"""
