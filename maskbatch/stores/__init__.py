"""Stores: local folders, buckets and web servers behind one interface, safe for threads.

base                  the interface and its errors
uris                  places: what a URI points to, and what may be read
options               credentials and endpoints by URL prefix
access                which store serves a URI
local                 this machine's files
s3, s3_clients        buckets of S3
web                   web servers
filesystem            all else that fsspec opens
retry, fetch          requests that are tried again, and how many at once
remote_file           a remote file that reads like a local one
files                 files of a run directory, each written whole
"""
