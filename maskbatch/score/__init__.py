"""From plan rows to scores rows, without Ray.

- `read`: plan rows to encoded bytes, neighbours by one request.
- `decode`: bytes to fixed-size RGB, or a status and a sentence.
- `quality`: brightness, contrast, sharpness and a perceptual hash.
- `shard`: the work on one shard, ending in scores rows.
"""
