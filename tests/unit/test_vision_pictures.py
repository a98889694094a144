"""Decoding, listing and wiggling of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advbench.api import DataError
from advbench_vision.augment import Wiggle
from advbench_vision.listing import Listed, choose, from_csv, from_folders
from advbench_vision.pictures import UNREADABLE, read_picture


def gradient(height: int, width: int) -> np.ndarray:
    """Colours that tell the place: red grows down, green grows right."""
    down, right = np.mgrid[:height, :width]
    return np.stack([down, right, np.full_like(down, 7)], axis=-1).astype(np.uint8)


def test_square_of_the_same_size_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(gradient(9, 9)).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png", size=9, crop=None, grey=False)
    np.testing.assert_array_equal(pixels, gradient(9, 9).transpose(2, 0, 1))


def test_crop_takes_the_centre(tmp_path: Path) -> None:
    Image.fromarray(gradient(30, 50)).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png", size=10, crop=10, grey=False)
    np.testing.assert_array_equal(pixels, gradient(30, 50)[10:20, 20:30].transpose(2, 0, 1))
    with pytest.raises(ValueError, match="50 x 30 pixels are smaller than the crop of 31"):
        read_picture(tmp_path / "a.png", size=10, crop=31, grey=False)


def test_oblong_picture_keeps_its_proportions(tmp_path: Path) -> None:
    Image.fromarray(gradient(20, 60)).save(tmp_path / "a.png")
    _, green, _ = read_picture(tmp_path / "a.png", size=20, crop=None, grey=False)
    np.testing.assert_array_equal(green[0], np.arange(20, 40))  # the central square, not the squeezed whole


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(gradient(8, 8)).save(tmp_path / "a.png", exif=exif)
    pixels = read_picture(tmp_path / "a.png", size=8, crop=None, grey=False)
    np.testing.assert_array_equal(pixels, np.rot90(gradient(8, 8), k=-1).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_colour_and_grey(tmp_path: Path, mode: str) -> None:
    white = Image.new("L", (8, 8), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16))
    elif mode == "CMYK":
        image = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    else:
        image = white.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    for grey, channels in ((False, 3), (True, 1)):
        pixels = read_picture(path, size=8, crop=None, grey=grey)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.full((channels, 8, 8), 255))


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 257 * 100 + 129, 65535]], dtype=np.uint16).repeat(4, axis=0)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png", size=4, crop=None, grey=True)
    np.testing.assert_array_equal(pixels[0, 0], [0, 100, 101, 255])


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    colour = np.full((4, 4, 4), 200, dtype=np.uint8)
    colour[:2, :, 3], colour[2:, :, 3] = 0, 255
    Image.fromarray(colour).save(tmp_path / "alpha.png")
    palette = Image.fromarray(np.array([[0] * 4, [0] * 4, [1] * 4, [1] * 4], dtype=np.uint8), mode="P")
    palette.putpalette([200] * 6)
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("alpha.png", "palette.png"):
        pixels = read_picture(tmp_path / name, size=4, crop=None, grey=False)
        assert (pixels[:, :2] == 0).all()
        assert (pixels[:, 2:] == 200).all()


def test_damaged_and_floating_point_files_are_unreadable(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "a.jpg"
    )
    whole = (tmp_path / "a.jpg").read_bytes()
    for name, content in {
        "half.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.png": b"no image",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UNREADABLE):
            read_picture(tmp_path / name, size=8, crop=None, grey=False)
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        read_picture(tmp_path / "float.tif", size=4, crop=None, grey=True)


def test_folders_list_images_only(tmp_path: Path) -> None:
    for name in (
        "cat/b.JPG",
        "cat/deep/a.png",
        "dog/1.jpeg",
        "dog/notes.txt",
        "dog/._1.jpeg",
        ".hidden/x.png",
        "top.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert from_folders(tmp_path) == [
        Listed("cat/b.JPG", "cat"),
        Listed("cat/deep/a.png", "cat"),
        Listed("dog/1.jpeg", "dog"),
    ]
    with pytest.raises(DataError, match="no images in folders below"):
        from_folders(tmp_path / ".hidden")
    with pytest.raises(DataError, match="is not a folder"):
        from_folders(tmp_path / "top.png")


def test_csv_names_and_filters(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("\ufeffobj,survey,kind\n2,a,round\n1,a,flat\n3,b,flat\n", encoding="utf-8")
    assert from_csv(table, "im/{obj}.png", "kind", {}) == [
        Listed("im/1.png", "flat"),
        Listed("im/2.png", "round"),
        Listed("im/3.png", "flat"),
    ]
    assert from_csv(table, "{survey}/{obj}.png", "kind", {"survey": "b"}) == [Listed("b/3.png", "flat")]
    for arguments, message in {
        ("{name}", "kind"): "no column 'name'; there are obj, survey, kind",
        ("{obj}", "class"): "no column 'class'",
        ("{survey}", "kind"): "line 3: 'a' is listed twice",
    }.items():
        with pytest.raises(DataError, match=message):
            from_csv(table, *arguments, {})
    with pytest.raises(DataError, match=r"no row with \{'survey': 'c'\}"):
        from_csv(table, "{obj}", "kind", {"survey": "c"})
    table.write_text("obj,kind\n1,\n")
    with pytest.raises(DataError, match="line 2: the label is empty"):
        from_csv(table, "{obj}", "kind", {})


def test_choose_merges_then_keeps() -> None:
    listed = [Listed("1", "left"), Listed("2", "right"), Listed("3", "flat"), Listed("4", "odd")]
    merged = choose(listed, ["turning", "flat"], {"left": "turning", "right": "turning"})
    assert [item.label for item in merged] == ["turning", "turning", "flat"]
    with pytest.raises(DataError, match="no class 'square'; there are flat, left, odd, right"):
        choose(listed, ["square"], {})
    with pytest.raises(DataError, match="no class 'up'"):
        choose(listed, [], {"up": "down"})


def test_flips_and_shifts_by_closed_form() -> None:
    x = torch.arange(2 * 16.0).view(2, 1, 4, 4) / 32
    middle = torch.full((2, 16), 0.5)
    flipped = middle.clone()
    flipped[0, :2] = 0.0  # below 1/2: flip both axes of the first image
    result = Wiggle("both", 0.0, 0.0)(x, flipped)
    torch.testing.assert_close(result, torch.stack([x[0].flip(1, 2), x[1]]))
    horizontal = Wiggle("horizontal", 0.0, 0.0)(x, flipped)
    torch.testing.assert_close(horizontal, torch.stack([x[0].flip(2), x[1]]))
    shifted = middle.clone()
    shifted[:, 3] = 1.0  # the largest shift along the width: a quarter of 4 pixels
    torch.testing.assert_close(Wiggle("none", 0.0, 0.25)(x, shifted)[..., :-1], x[..., 1:])
    torch.testing.assert_close(Wiggle("both", 90.0, 0.2)(x, middle), x)  # draws of 1/2 change nothing


def test_quarter_turn_by_closed_form() -> None:
    x = torch.arange(25.0).view(1, 1, 5, 5)
    draws = torch.full((1, 16), 0.5)
    draws[:, 2] = 1.0
    torch.testing.assert_close(Wiggle("none", 90.0, 0.0)(x, draws), x.rot90(1, (2, 3)))


def test_wiggle_stays_within_the_values_of_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 12, 20, generator=generator) * torch.linspace(0.1, 1, 16).view(-1, 1, 1, 1)
    result = Wiggle("both", 180.0, 0.5)(x, torch.rand(16, 16, generator=generator))
    assert result.shape == x.shape
    assert bool((result.amax((1, 2, 3)) <= x.amax((1, 2, 3)) + 1e-6).all())
    assert bool((result.amin((1, 2, 3)) >= x.amin((1, 2, 3)) - 1e-6).all())
    assert bool((result - x).abs().amax((1, 2, 3)).gt(0.01).all())
