"""Random changes to training pictures, like those a gate camera makes, on whole batches of tensors.

Evaluation changes nothing: it decodes and resizes as scoring does.
"""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import simplejpeg
import torch
from torch.nn import functional as F

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How far a training picture may differ from its original. Each chance is per picture."""

    flip: bool = True
    zoom: Range = (0.75, 1.2)
    """Size of the content. Below 1, mirror images of the picture fill the space around it."""
    rotation_deg: float = 12.0
    shift: float = 0.08
    """Standard deviation, as a share of the side."""
    squash_chance: float = 0.4
    squash: float = 1.78
    """Largest aspect ratio, or its inverse: scoring presses 16:9 and 9:16 frames into a square."""
    gain: Range = (0.55, 1.5)
    gamma: Range = (0.6, 1.7)
    night_chance: float = 0.1
    night_gain: Range = (0.2, 0.5)
    cast: float = 0.12
    """Standard deviation of the logarithm of each channel's gain."""
    saturation: Range = (0.5, 1.5)
    grey_chance: float = 0.12
    """Infrared pictures have no colour."""
    blur_chance: float = 0.25
    blur_px: tuple[int, int] = (20, 72)
    """To blur a picture, shrink it to a side in this range and enlarge it again."""
    noise_chance: float = 0.3
    noise: float = 0.06
    """Largest standard deviation; pixel values are in [0, 1]."""
    jpeg_chance: float = 0.2
    jpeg_quality: tuple[int, int] = (20, 80)
    erase_chance: float = 0.2
    erase_area: Range = (0.02, 0.1)


NO_LIGHT: dict[str, Any] = {
    "gain": (1, 1), "gamma": (1, 1), "night_chance": 0, "cast": 0, "saturation": (1, 1), "grey_chance": 0,
}  # fmt: skip
NO_DAMAGE: dict[str, Any] = {"blur_chance": 0, "noise_chance": 0, "jpeg_chance": 0, "erase_chance": 0}
STILL: dict[str, Any] = {
    "flip": False, "zoom": (1, 1), "rotation_deg": 0, "shift": 0, "squash_chance": 0,
}  # fmt: skip
PRESETS = {
    "camera": Augmentation(),
    "scene": Augmentation(
        zoom=(0.78, 1.28),
        shift=0.07,
        squash_chance=0.25,
        blur_chance=0.4,
        blur_px=(16, 72),
        erase_chance=0.15,
    ),
    "geometry": Augmentation(squash_chance=0, **NO_LIGHT, **NO_DAMAGE),
    "none": Augmentation(**STILL, **NO_LIGHT, **NO_DAMAGE),
}


def augment_images(images_NHWC: torch.Tensor, size: int, preset: Augmentation) -> torch.Tensor:
    """Turn RGB images (N, H, W, 3) uint8 into random versions (N, 3, size, size) float32 in [0, 1].

    Runs on the device of the images, except for JPEG artefacts, which need the CPU.
    """
    images = images_NHWC.permute(0, 3, 1, 2).float() / 255
    images = _degrade(_relight(_warp(images, size, preset), preset), preset)
    return _erase(images, preset)


def _draw_uniform(like: torch.Tensor, bounds: Range) -> torch.Tensor:
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(*bounds)


def _draw_mask(like: torch.Tensor, chance: float) -> torch.Tensor:
    return torch.rand(len(like), 1, 1, 1, device=like.device) < chance


def _warp(images: torch.Tensor, size: int, preset: Augmentation) -> torch.Tensor:
    """Zoom, squash, flip, rotate and shift in one bilinear resampling."""
    num, reach = len(images), log(preset.squash) / 2
    zoom = _draw_uniform(images, (log(preset.zoom[0]), log(preset.zoom[1]))).exp()
    squash = (_draw_uniform(images, (-reach, reach)) * _draw_mask(images, preset.squash_chance)).exp()
    flip = 1 - 2 * _draw_mask(images, 0.5 if preset.flip else 0).float()
    angle = _draw_uniform(images, (-preset.rotation_deg, preset.rotation_deg)).deg2rad()
    wide, tall = flip / (zoom * squash), squash / zoom
    turn = [angle.cos() * wide, -angle.sin() * wide, angle.sin() * tall, angle.cos() * tall]
    shift = (torch.randn(num, 2, device=images.device) * 2 * preset.shift)[:, :, None]
    theta = torch.cat([torch.cat(turn, dim=1).view(num, 2, 2), shift], dim=2)
    grid = F.affine_grid(theta, [num, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _relight(images: torch.Tensor, preset: Augmentation) -> torch.Tensor:
    """Change exposure (day or night), colour cast, saturation and gamma."""
    night = _draw_mask(images, preset.night_chance)
    gain = torch.where(night, _draw_uniform(images, preset.night_gain), _draw_uniform(images, preset.gain))
    gain = gain * (torch.randn(len(images), 3, 1, 1, device=images.device) * preset.cast).exp()
    saturation = _draw_uniform(images, preset.saturation) * ~_draw_mask(images, preset.grey_chance)
    grey = images.mean(dim=1, keepdim=True)
    coloured = (grey + (images - grey) * saturation).clamp(1e-4, 1)
    return (coloured ** _draw_uniform(images, preset.gamma) * gain).clamp(0, 1)


def _degrade(images: torch.Tensor, preset: Augmentation) -> torch.Tensor:
    """Add blur (each group of four shares its strength), noise and JPEG artefacts."""
    images = images.clone()
    for part in images.split(4):
        chosen = torch.rand(len(part)) < preset.blur_chance
        if chosen.any():
            side = int(torch.randint(*preset.blur_px, ()))
            small = F.interpolate(part[chosen], side, mode="bilinear", antialias=True)
            part[chosen] = F.interpolate(small, part.shape[-1], mode="bilinear")
    strength = _draw_uniform(images, (0, preset.noise)) * _draw_mask(images, preset.noise_chance)
    images = (images + torch.randn_like(images) * strength).clamp(0, 1)
    for i in _draw_mask(images, preset.jpeg_chance).flatten().nonzero().flatten().tolist():
        quality = int(torch.randint(*preset.jpeg_quality, ()))
        pixels_HWC = (images[i] * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        jpeg = simplejpeg.encode_jpeg(pixels_HWC, quality, colorsubsampling="420")
        decoded = torch.from_numpy(simplejpeg.decode_jpeg(jpeg)).to(images.device)
        images[i] = decoded.permute(2, 0, 1).float() / 255
    return images


def _erase(images: torch.Tensor, preset: Augmentation) -> torch.Tensor:
    """Cover part of the picture with one coloured rectangle, like a hand, a badge or a sign."""
    size = images.shape[-1]
    for i in _draw_mask(images, preset.erase_chance).flatten().nonzero().flatten().tolist():
        area = float(torch.empty(()).uniform_(*preset.erase_area)) * size**2
        height = min(size, round(sqrt(area) * exp(float(torch.randn(()) * 0.3))))
        width = min(size, round(area / height))
        x, y = (int(torch.randint(size - side + 1, ())) for side in (width, height))
        images[i, :, y : y + height, x : x + width] = torch.rand(3, 1, 1, device=images.device)
    return images
