"""Classifiers: images in, probabilities out. Detectors: a picture in, its faces out.

card            what a checkpoint says of itself: how to prepare pictures, what labels mean, what was measured
checkpoint      one .safetensors file: weights and a card
architectures   every network that the card of a classifier can name
face_networks   those that the card of a detector can name
classifier      a model on its CPU or GPU
detector        a face detector there
checkpoints/    the packaged checkpoints, and their model card
"""
