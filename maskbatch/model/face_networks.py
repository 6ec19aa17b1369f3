"""The networks of face detectors, untrained: pictures in, a face at every point of a grid out.

Pictures (N, 3, H, W) are RGB in 0..255, with sides that are multiples of 32. Faces (N, P, 9) are float32, one
for each of P points: confidence; box (x0, y0, x1, y1), left and right eye (x, y) as one sees them, in pixels.

`heads` stays in float32, so that boxes are precise where all else is in bfloat16. Batch norms are folded into
the convolutions by `training.convert_detector`.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReluConv(nn.Conv2d):
    """A convolution, then ReLU: in one step where `can_fuse`, which saves a seventh and changes no bit."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled() or not can_fuse():
            return F.relu_(super().forward(x))
        fused, where = torch.ops.mkldnn._convolution_pointwise, (self.padding, self.stride, self.dilation)
        out: Tensor = fused(x, self.weight, self.bias, *where, self.groups, "relu", [], "")
        return out


@cache
def can_fuse() -> bool:
    """Whether this CPU and this torch have the step that torch's own compiler uses."""
    has_step = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return has_step and torch.backends.cpu.get_cpu_capability() == "AVX512"


class FaceNetwork(nn.Module):
    """Maps of what the heads say, and the faces that this means."""

    strides: tuple[int, ...]
    """Pixels between the points of each grid."""
    heads: nn.Module

    def compute_maps(self, images: Tensor) -> list[Tensor]:
        """Maps (N, C, H / stride, W / stride) float32 for each stride, as the published file gives them."""
        raise NotImplementedError

    def find_faces(self, maps: Tensor, points: Tensor, stride: int) -> list[Tensor]:
        """Confidence (N, 1, h, w); middle and size of boxes, left and right eye (N, 2, h, w), in pixels.

        `points` (2, h, w) holds the column and the row of each point.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        faces = []
        for maps, stride in zip(self.compute_maps(images), self.strides, strict=True):
            height, width = (torch.arange(n, device=maps.device, dtype=maps.dtype) for n in maps.shape[2:])
            points = torch.stack(torch.meshgrid(width, height, indexing="xy"))
            confidence, middle, size, *eyes = self.find_faces(maps, points, stride)
            parts = [confidence, middle - size / 2, middle + size / 2, *eyes]
            faces.append(torch.cat(parts, 1).flatten(2).mT)
        return torch.cat(faces, 1)


class CenterFace(FaceNetwork):
    """A heat map of the middles of faces at a quarter of the size, from MobileNetV2 and a feature pyramid.

    Source: Xu et al. 2019, arXiv 1911.03599.
    """

    strides = (4,)
    # Of each stage: how much its blocks widen, channels, blocks, stride of the first.
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    SIDES = ((4, 96), (2, 32), (1, 24))
    """Stage and channels of what joins on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ReluConv(3, 32, 3, 2, 1)
        self.stages = nn.ModuleList()
        channels = 32
        for widening, out, num_blocks, stride in self.STAGES:
            blocks = [_Block(channels, out, stride, widening)]
            blocks += [_Block(out, out, 1, widening) for _ in range(num_blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = out
        self.top = ReluConv(channels, 24, 1)
        self.ways_up = nn.ModuleList(_WayUp(channels, 24) for _, channels in self.SIDES)
        self.last = ReluConv(24, 24, 3, 1, 1)
        self.heads = nn.Conv2d(24, 15, 1)

    def compute_maps(self, images: Tensor) -> list[Tensor]:
        """15 maps: confidence; log height, width; offset y, x; five landmarks y, x."""
        x, sides = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            sides.append(x)
        x = self.top(x)
        for (k, _), way_up in zip(self.SIDES, self.ways_up, strict=True):
            x = way_up(x, sides[k])
        maps = self.heads(self.last(x).float())
        return [torch.cat([maps[:, :1].sigmoid(), maps[:, 1:]], 1)]

    def find_faces(self, maps: Tensor, points: Tensor, stride: int) -> list[Tensor]:
        size, offset = maps[:, [2, 1]].exp() * stride, maps[:, [4, 3]]
        middle = (points + 0.5 + offset) * stride
        eyes = [middle + (maps[:, [k + 1, k]] - 0.5) * size for k in (5, 7)]
        return [maps[:, :1], middle, size, *eyes]


class _Block(nn.Module):
    """Widen, filter each channel, narrow: the inverted residual of Sandler et al. 2018."""

    def __init__(self, channels: int, out: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = channels * widening
        self.widen = ReluConv(channels, wide, 1) if widening > 1 else None
        self.filter = ReluConv(wide, wide, 3, stride, 1, groups=wide)
        self.narrow = nn.Conv2d(wide, out, 1)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.narrow(self.filter(self.widen(x) if self.widen else x))
        return out.add_(x) if self.adds else out


class _WayUp(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(out, out, 2, 2)
        self.side = ReluConv(channels, out, 1)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        return F.relu_(self.grow(x)).add_(self.side(side))


class YuNet(FaceNetwork):
    """YuNet-n: three grids, 74 thousand weights. Source: Wu et al. 2023, Machine Intelligence Research 20."""

    strides = (8, 16, 32)
    heads: nn.ModuleList
    # Channels of the pairs of each stage; maps halve between stages.
    STAGES = ((16,), (16, 64, 64, 64), (64, 64), (64, 64), (64, 64))

    def __init__(self) -> None:
        super().__init__()
        self.stem = ReluConv(3, 16, 3, 2, 1)
        self.stages = nn.ModuleList()
        channels = 16
        for stage in self.STAGES:
            pairs = zip((channels, *stage[:-1]), stage, strict=True)
            self.stages.append(nn.Sequential(*(_pair(*pair) for pair in pairs)))
            channels = stage[-1]
        self.ways_up = nn.ModuleList(_pair(64, 64) for _ in self.strides)
        self.ends = nn.ModuleList(_pair(64, 64) for _ in self.strides)
        self.heads = nn.ModuleList(_pair(64, 16, nn.Conv2d) for _ in self.strides)

    def compute_maps(self, images: Tensor) -> list[Tensor]:
        """16 maps: confidence in face, in object; middle x, y; log width, height; five landmarks x, y."""
        x, sides = self.stem(images), []
        for k, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if k else x)
            sides.append(x)
        grids: list[Tensor] = []
        for side, way_up in zip(sides[:1:-1], self.ways_up, strict=True):
            grids.insert(0, way_up(side + F.interpolate(grids[0], scale_factor=2.0) if grids else side))
        ends = [end(grid).float() for end, grid in zip(self.ends, grids, strict=True)]
        outputs = [head(end) for head, end in zip(self.heads, ends, strict=True)]
        return [torch.cat([maps[:, :2].sigmoid(), maps[:, 2:]], 1) for maps in outputs]

    def find_faces(self, maps: Tensor, points: Tensor, stride: int) -> list[Tensor]:
        confidence = (maps[:, :1] * maps[:, 1:2]).sqrt()
        size = maps[:, 4:6].exp() * stride
        middle, *eyes = ((points + maps[:, k : k + 2]) * stride for k in (2, 6, 8))
        return [confidence, middle, size, *eyes]


def _pair(channels: int, out: int, last: type[nn.Conv2d] = ReluConv) -> nn.Sequential:
    """Mix the channels, then filter each."""
    return nn.Sequential(nn.Conv2d(channels, out, 1), last(out, out, 3, 1, 1, groups=out))


NETWORKS: dict[str, type[FaceNetwork]] = {"centerface": CenterFace, "yunet_n": YuNet}
