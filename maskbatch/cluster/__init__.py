"""Scoring on a Ray cluster; only this package imports Ray.

connection      a cluster, started or joined
nodes           its nodes by shape
launcher        node types and prices in files of Ray's cluster launcher
pipeline        the Ray Data job; sizes of pools, CPUs, GPUs
workers         what runs there: decode tasks and scoring actors
packing         decoded images on their way to a GPU
metrics         what they count, on Ray's metrics pages
ray_internals   what we use of Ray that is not public
"""
