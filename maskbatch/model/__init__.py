"""Classifiers: images in, probabilities out.

checkpoint      one .safetensors file: weights, and a card of what scoring must know
architectures   every network that a card can name
classifier      a model on its CPU or GPU
checkpoints/    the packaged checkpoint, and its model card
"""
