"""Archives: from what an ARCHIVE argument names to a stream of images, without opening one.

arguments    what an argument names: a folder, a pattern, a date template, a container, a manifest
tree         a folder and a pattern below it
hidden       what is no snapshot by its name: thumbnails, bins, temporary files
listing      the files of a tree, in order; walk: those of local folders; s3_listing: those of a bucket
tally        what is counted beside the images
reader       all arguments as one stream of entries
entries      one image of that stream
members      what tars and zips share: members as byte ranges
tars, zips   their indexes
rowfiles     Parquet files whose rows are images
manifest     lists of images: CSV, JSON lines, Parquet; inventory: those of S3
rows         the rows of a manifest's file
columns      column names of manifests and Parquet files
unique       every image once
"""
