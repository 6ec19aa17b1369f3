"""Run directories: how a run is begun, resumed and committed, and how it is read afterwards.

directory   the names in OUT
records     run.json and _SUCCESS as dataclasses, checked where they are read
versions    OUT, OUT.v2, OUT.v3 ...
lease       one driver at a time
sweep       what killed drivers left goes
request     what a call asks for, and where
begin       settings and plan: found there, or written
draft       which images earlier runs hold unchanged
carry       the rows of these, copied at the commit
work        what every worker must know
regions     what the rows of one image are numbered
staging     one file a shard; a resumed run starts from them
commit      prove that every image is there once, write scores/ and _SUCCESS
committed   finished runs, opened to be read
status      where a run stands
reading     why a Parquet file does not read
run         a run opened from Python
"""
