"""Archives: from what an ARCHIVE argument names to a stream of images, without opening one.

arguments    what an argument names: a folder, a pattern, a date template, a container, a manifest
tree         a folder and a pattern below it
listing      the files of a tree, in order; s3_listing: those of a bucket
reader       all arguments as one stream of entries
entries      one image of that stream
members      what tars and zips share: members as byte ranges
tars, zips   their indexes
rowfiles     Parquet files whose rows are images
manifest     lists of images: CSV, JSON lines, Parquet; inventory: those of S3
columns      column names of manifests and Parquet files
unique       every image once
"""
