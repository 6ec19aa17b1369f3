"""Classifiers.

- `checkpoint`: one .safetensors file: weights, and a card of everything that scoring must know.
- `architectures`: every network that a card can name.
- `classifier`: uint8 images to probabilities, on a CPU or GPU.
- `checkpoints/`: the packaged checkpoint and its model card.
"""
