"""Brightness, contrast, sharpness and a perceptual hash of a resized image: they tell about its camera."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def measure(luma_HW: NDArray[np.uint8]) -> tuple[float, float, float]:
    """(brightness, contrast, sharpness) of one image's luma (H, W) uint8.

    brightness is the mean / 255 and contrast the standard deviation / 255, both in [0, 1];
    sharpness is the variance of the 3x3 Laplacian, in grey levels squared.
    Source: Pech-Pacheco et al. 2000, variance of the Laplacian as a focus measure.
    """
    luma = luma_HW.astype(np.int16)
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    sharpness = float(laplacian.var()) if laplacian.size else 0.0
    return float(luma_HW.mean()) / 255, float(luma_HW.std()) / 255, sharpness


def dhash(luma: Image.Image) -> bytes:
    """64-bit difference hash, 8 bytes: is each cell of a 9x8 reduction darker than its right neighbour?

    Source: Neal Krawetz, "Kind of Like That" (2013).
    """
    small = np.asarray(luma.resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()
