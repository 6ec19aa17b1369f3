"""Run directories: OUT, its versions, how a run is begun and committed, and how it is read afterwards.

- `directory`: the names in OUT. `records`: run.json and `_SUCCESS`, checked where they are read.
- `versions`: OUT, OUT.v2, OUT.v3 ... `lease`: one driver at a time.
- `request`: what a call asks for, and where. `begin`: settings and plan, found there or written.
- `draft`: which images earlier runs hold unchanged. `carry`: their rows, copied at the commit.
- `work`: what workers must know. `staging`: one file a shard, from which a run is resumed.
- `commit`: proves that every image is there once, writes scores/ and `_SUCCESS`.
- `committed`: runs opened to be read. `status`: where a run stands. `run`: both for Python users.
"""
