"""Classifiers: images in, probabilities out.

card            what a checkpoint says of itself: how to prepare pictures, what labels mean, what was measured
checkpoint      one .safetensors file: weights and a card
architectures   every network that a card can name
classifier      a model on its CPU or GPU
checkpoints/    the packaged checkpoints, and their model card
"""
