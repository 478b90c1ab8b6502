"""The bytes of a picture → RGB → a square uint8 tensor. Pillow decodes, torchvision's v2 transforms do the rest.

Only JPEG, PNG and WebP are tried, whatever a member is called, and the size in the header is checked before decoding.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as v2f

from moe_bench.data.bad import BadPicture

FORMATS = ("JPEG", "PNG", "WEBP")
ASPECTS = (3 / 4, 4 / 3)  # width over height of a training crop
MAX_ASPECT = 16  # the middle of a longer picture is all that a square crop can see
MAX_PIXELS = 64_000_000

Transform = Callable[[Image.Image], Tensor]
"""An RGB picture → uint8 (3, S, S)."""


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied; the values of a recipe of the same names."""

    crop_area: float = 0.05  # smallest share of the picture that a crop keeps; 1: no crop
    flip: bool = True
    randaugment: int = 0  # operations; 0: off
    randaugment_magnitude: int = 9  # 0 to 30


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB picture. Raises BadPicture with a reason for what is not a whole picture of at most ``max_pixels``."""
    if not data:
        raise BadPicture("empty", "is an empty file, not a picture; remove or replace it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's hints on size and palettes are answered here
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            pixels = image.width * image.height
            if pixels <= max_pixels:
                return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise BadPicture("too_large", f"is larger than data.max_pixels={max_pixels:,}: {error}") from error
    except UnidentifiedImageError as error:
        raise BadPicture("damaged", f"{_unlike(data)}: it begins with {data[:12]!r}") from error
    except MemoryError:  # this machine's fault, not the picture's
        raise
    except Exception as error:  # Pillow raises nearly everything for broken files, SyntaxError among it
        raise BadPicture("damaged", f"{_unlike(data)}: {error}") from error
    raise BadPicture(
        "too_large",
        f"has {image.width} × {image.height} = {pixels:,} pixels, more than data.max_pixels={max_pixels:,}; "
        "raise the limit if you trust it",
    )


def _unlike(data: bytes) -> str:
    return f"({len(data):,} bytes) is not a whole JPEG, PNG or WebP picture"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Grey is repeated, 16 bits are cut to the upper 8, transparency is dropped, an animation gives its first frame."""
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")


def training_transform(size: int, how: Augmentation) -> Transform:
    """Inception crop (with crop_area=1 the whole middle), flip, RandAugment; random from torch's global generator."""
    steps: list[torch.nn.Module] = []
    if how.crop_area < 1:
        area = (how.crop_area, 1.0)
        steps.append(v2.RandomResizedCrop(size, scale=area, ratio=ASPECTS, interpolation=InterpolationMode.BILINEAR))
    else:
        steps += [v2.Lambda(_trim), v2.Resize(size, interpolation=InterpolationMode.BILINEAR), v2.CenterCrop(size)]
    if how.flip:
        steps.append(v2.RandomHorizontalFlip())
    if how.randaugment:
        steps.append(v2.RandAugment(how.randaugment, how.randaugment_magnitude))
    return v2.Compose([*steps, v2.PILToTensor()])


def evaluation_transform(size: int, crop: float = 1.0) -> Transform:
    """The short side resized to size / crop, then the middle: crop is the share of the side that is kept."""
    resize = v2.Resize(round(size / crop), interpolation=InterpolationMode.BILINEAR)
    return v2.Compose([v2.Lambda(_trim), resize, v2.CenterCrop(size), v2.PILToTensor()])


def _trim(image: Image.Image) -> Image.Image:
    """The middle of a very long picture: resized by its short side, one of 1 × 10⁷ pixels would fill the memory."""
    longest = MAX_ASPECT * min(image.size)
    if max(image.size) <= longest:
        return image
    return v2f.center_crop(image, [min(image.height, longest), min(image.width, longest)])


def squeeze_transform(size: int, crop: float = 1.0) -> Transform:
    """The picture resized to a square whatever its shape, then the middle: V-MoE's few-shot evaluation and fine-tuning.

    As there: bilinear between pixel centres without smoothing, cut (not rounded) to whole numbers.
    """
    return partial(_squeeze, side=round(size / crop), size=size)


def _squeeze(image: Image.Image, side: int, size: int) -> Tensor:
    pixels = v2f.pil_to_tensor(image)
    if pixels.shape[1:] != (side, side):
        pixels = functional.interpolate(pixels[None].float(), (side, side), mode="bilinear")[0].to(torch.uint8)
    return v2f.center_crop(pixels, [size, size])


def to_range(pixels: Tensor) -> Tensor:
    """uint8 in 0 to 255 → float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)
