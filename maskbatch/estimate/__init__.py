"""Hours and cost of a run, before it is made.

calibration   a random sample, listed and scored on this machine
cost          from its times to those of the run, here or on a cluster
"""
