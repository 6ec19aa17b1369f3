"""The plan: one numbered row for each image, which all later steps read instead of the archive.

listing    what listing found
build      list the archives, filter and count
layouts    how the paths follow --layout, and why some do not
sites      sites with a zone, held against those of the archive
columns    one image as a row
table      the plan's Parquet files
shards     how many images a shard has
"""
