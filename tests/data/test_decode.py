from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from moe_bench.data.decode import (
    Augmentation,
    decode,
    evaluation_transform,
    squeeze_transform,
    to_range,
    training_transform,
)
from tests.data.shards import picture


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=form, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_jpeg_png_and_webp_become_rgb(form: str) -> None:
    image = decode(picture(size=(20, 10), form=form))
    assert (image.mode, image.size) == ("RGB", (20, 10))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_of_picture_becomes_rgb_of_the_same_brightness(mode: str) -> None:
    grey = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    image = decode(encoded(grey, "JPEG" if mode == "CMYK" else "PNG"))
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 250


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    pixels = np.array([[0, 0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(pixels))))[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert np.asarray(decode(encoded(image, transparency=b"\xff\x00")))[0, 0].tolist() == [10, 20, 30]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (200, 10)]
    image = decode(encoded(frames[0], save_all=True, append_images=frames[1:]))
    assert np.asarray(image)[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff" + bytes(50), picture()[:-30], picture(form="JPEG")[:400]]
)
def test_what_is_not_a_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="picture"):
        decode(data)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused_whatever_they_are_called(form: str) -> None:
    with pytest.raises(ValueError, match="not a whole JPEG, PNG or WebP"):
        decode(encoded(Image.new("RGB", (16, 16)), form))


def test_a_text_that_is_no_picture_is_shown_by_how_it_begins() -> None:
    with pytest.raises(ValueError, match=r"\(11 bytes\) is not a whole JPEG, PNG or WebP picture: .*b'hello world'"):
        decode(b"hello world")


def test_a_decompression_bomb_is_refused_by_its_header_without_being_decoded() -> None:
    bomb = encoded(Image.new("1", (10_000, 10_000)))
    assert len(bomb) < 20_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"10000 × 10000 = 100,000,000 pixels, more than data\.max_pixels=64,000,000"):
        decode(bomb)
    giant = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 1, 0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"larger than data\.max_pixels"):
        decode(giant + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_the_limit_of_pixels_can_be_set() -> None:
    assert decode(picture(size=(8, 8)), max_pixels=64).size == (8, 8)
    with pytest.raises(ValueError, match="64 pixels, more than"):
        decode(picture(size=(8, 8)), max_pixels=63)


def test_a_text_bomb_is_refused() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "x" * (80 << 20), zip=True)
    with pytest.raises(ValueError, match="not a whole"):
        decode(encoded(Image.new("RGB", (4, 4)), pnginfo=notes))


def test_evaluation_resizes_the_short_side_and_takes_the_middle() -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 0, 0), (10, 0, 30, 20))  # the middle square
    assert evaluation_transform(10)(image)[0].min() > 200  # smoothing blends the very edge
    assert evaluation_transform(32, crop=0.875)(Image.new("RGB", (50, 90))).shape == (3, 32, 32)


def test_a_smaller_crop_share_takes_a_smaller_middle() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 0, 0), (16, 16, 48, 48))
    assert evaluation_transform(32, crop=0.5)(image)[0].min() == 255
    assert evaluation_transform(32, crop=1.0)(image)[0].float().mean() == pytest.approx(255 / 4, rel=0.1)


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    data = picture(size=(32, 32))
    whole = torch.from_numpy(np.asarray(decode(data)).transpose(2, 0, 1).copy())
    for transform in (evaluation_transform(32), squeeze_transform(32)):
        assert torch.equal(transform(decode(data)), whole)


def test_squeezing_samples_between_pixel_centres_and_cuts_to_whole_numbers() -> None:
    row = np.array([0, 10, 20, 40, 80, 160, 255, 3], dtype=np.uint8)
    image = Image.fromarray(np.repeat(row[None, :, None], 3, axis=2).repeat(4, axis=0))  # 8 wide, 4 high
    centres = (np.arange(5) + 0.5) * 8 / 5 - 0.5
    expected = np.floor(np.interp(centres, np.arange(8), row)).astype(int).tolist()
    assert squeeze_transform(5)(image)[0, 0].tolist() == expected


def test_a_very_long_picture_does_not_fill_the_memory() -> None:
    image = Image.new("RGB", (1_000_000, 1), (255, 255, 255))
    for transform in (
        evaluation_transform(32),
        training_transform(32, Augmentation(crop_area=1)),
        squeeze_transform(32),
    ):
        assert transform(image).shape == (3, 32, 32)


def test_values_are_in_minus_one_to_one() -> None:
    assert to_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_training_crops_flips_and_augments_at_random() -> None:
    image = decode(picture(size=(40, 30)))
    for how in (Augmentation(0.05), Augmentation(1, True), Augmentation(1, False, randaugment=2)):
        made = {training_transform(16, how)(image).numpy().tobytes() for _ in range(12)}
        assert len(made) > 1


def test_without_crop_flip_and_randaugment_training_pictures_are_those_of_evaluation() -> None:
    image = decode(picture(size=(40, 30)))
    plain = training_transform(16, Augmentation(crop_area=1, flip=False))
    assert torch.equal(plain(image), evaluation_transform(16)(image))
