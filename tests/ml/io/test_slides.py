from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.errors import InputError
from ml.io.slides import needs_pyramid, open_slide, verify_slide, write_pyramid
from ml.io.tiffs import tiff_structure
from tests.ml.io.conftest import picture


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(1301, 913)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(pixels, path, mpp=0.6881, mpp_source="200 µm spot pitch")
    return path


def test_pyramid_reads_back_with_its_resolution_and_who_stated_it(slide: Path) -> None:
    info = open_slide(slide).info
    assert (info.width, info.height, info.tile_size) == (1301, 913, 256)
    assert (info.mpp, info.mpp_source) == (0.6881, "200 µm spot pitch")
    assert tiff_structure(slide).is_pyramid
    assert not needs_pyramid(slide)
    assert [p.name for p in slide.parent.iterdir()] == ["a.tif"]


def test_resolution_is_in_the_tags_for_other_readers(slide: Path) -> None:
    tags = Image.open(slide).tag_v2
    assert tags[296] == 3  # centimetres
    assert float(tags[282]) == pytest.approx(10_000 / 0.6881, rel=1e-4)


def test_a_given_mpp_wins(slide: Path) -> None:
    assert open_slide(slide, 0.25).info.mpp == 0.25
    with pytest.raises(InputError) as caught:
        open_slide(slide, 353.0)
    assert caught.value.code == "slide.bad_mpp"


def test_opening_again_costs_nothing(slide: Path) -> None:
    assert open_slide(slide) is open_slide(slide)


@pytest.mark.parametrize(("x", "y", "w", "h"), [(0, 0, 300, 200), (250, 250, 20, 20),
                                                 (1000, 700, 301, 213)])  # fmt: skip
def test_region_is_the_pixels(
    slide: Path, pixels: np.ndarray, x: int, y: int, w: int, h: int
) -> None:
    region = open_slide(slide).region(x, y, w, h)
    assert region.shape == (h, w, 3)
    assert np.abs(region.astype(int) - pixels[y : y + h, x : x + w]).mean() < 2


def test_region_beyond_the_border_is_mirrored(slide: Path) -> None:
    reader = open_slide(slide)
    region = reader.region(-40, 893, 100, 40)
    np.testing.assert_array_equal(region[:, 1:41], region[:, 79:39:-1])
    np.testing.assert_array_equal(region[20:39], region[18::-1])
    assert reader.region(-5000, -5000, 10, 10).shape == (10, 10, 3)


def test_downsampled_region_shows_the_same_place(slide: Path, pixels: np.ndarray) -> None:
    region = open_slide(slide).region(100, 100, 800, 600, out_width=100, out_height=75)
    expected = Image.fromarray(pixels[100:700, 100:900]).resize((100, 75), Image.Resampling.BOX)
    off = np.abs(region.astype(int) - np.asarray(expected)).mean()
    moved = np.abs(region[:, 1:].astype(int) - np.asarray(expected)[:, :-1]).mean()
    assert off < 3 < moved


def test_fractions_of_a_pixel_are_honoured(slide: Path, pixels: np.ndarray) -> None:
    reader = open_slide(slide)
    half = reader.region(100.5, 100, 50, 50).astype(float)
    mean = (reader.region(100, 100, 50, 50) + reader.region(101, 100, 50, 50).astype(float)) / 2
    assert np.abs(half - mean).mean() < 1


def test_at_mpp_spans_microns(slide: Path) -> None:
    reader = open_slide(slide)
    np.testing.assert_array_equal(
        reader.at_mpp(2 * 0.6881, 64, 32, 100, 50),
        reader.region(64, 32, 200, 100, out_width=100, out_height=50),
    )


def test_tiles_cover_the_slide_and_are_jpeg(slide: Path, pixels: np.ndarray) -> None:
    reader = open_slide(slide)
    for z in range(reader.info.levels):
        factor = 2 ** (reader.info.levels - 1 - z)
        columns, rows = -(-1301 // (256 * factor)), -(-913 // (256 * factor))
        for x in range(columns):
            for y in range(rows):
                tile = Image.open(io.BytesIO(reader.tile(z, x, y)))
                assert (tile.format, tile.size) == ("JPEG", (256, 256))
        with pytest.raises(IndexError):
            reader.tile(z, columns, 0)
    for z, x, y in ((-1, 0, 0), (reader.info.levels, 0, 0), (0, 0, -1)):
        with pytest.raises(IndexError):
            reader.tile(z, x, y)


def test_stored_tile_is_passed_on_undecoded(slide: Path) -> None:
    reader = open_slide(slide)
    tile = reader.tile(reader.info.levels - 1, 1, 1)
    # The entropy-coded data of the tile is in the file byte for byte.
    scan = tile[tile.index(b"\xff\xda") :]
    assert scan in slide.read_bytes()


def test_thumbnail_keeps_the_aspect(slide: Path) -> None:
    thumbnail = Image.open(io.BytesIO(open_slide(slide).thumbnail(200)))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (200, 140))


def test_flat_image_states_no_resolution_whatever_its_dpi(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    path = tmp_path / "scan.jpg"
    Image.fromarray(pixels).save(path, dpi=(72, 72))
    assert open_slide(path).info.mpp is None
    assert needs_pyramid(path)
    verify_slide(path)
    with pytest.raises(InputError) as caught:
        open_slide(path).require_mpp()
    assert caught.value.code == "slide.no_mpp"


def test_tiff_without_tiles_becomes_a_pyramid(tmp_path: Path, pixels: np.ndarray) -> None:
    import tifffile

    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, pixels, rowsperstrip=64, resolution=(20_000, 20_000), resolutionunit=3)
    verify_slide(path)
    reader = open_slide(path)
    assert reader.info.mpp == pytest.approx(0.5)
    np.testing.assert_array_equal(reader.region(10, 20, 300, 400), pixels[20:420, 10:310])
    assert needs_pyramid(path)
    write_pyramid(path, tmp_path / "out.tif", mpp=0.5, mpp_source="x")
    assert not needs_pyramid(tmp_path / "out.tif")


def test_private_metadata_of_the_source_is_dropped(tmp_path: Path, pixels: np.ndarray) -> None:
    source = tmp_path / "scan.jpg"
    exif = Image.Exif()
    exif[270] = "Jane Doe, 1961-02-03"
    Image.fromarray(pixels).save(source, exif=exif)
    write_pyramid(source, tmp_path / "out.tif", mpp=0.5, mpp_source="x")
    assert b"Jane Doe" in source.read_bytes()
    assert b"Jane Doe" not in (tmp_path / "out.tif").read_bytes()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
def test_truncated_tiff_is_found(slide: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.tif"
    whole = slide.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError) as caught:
        verify_slide(path)
    assert caught.value.code == "slide.truncated"
    assert caught.value.where == "cut.tif"


def test_tiff_whose_directory_survived_but_whose_tiles_did_not(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    import tifffile

    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="jpeg")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="beyond the end of the file") as caught:
        verify_slide(path)
    assert caught.value.code == "slide.truncated"


def test_tile_with_damaged_content_is_found(slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    data = bytearray(slide.read_bytes())
    reader = open_slide(slide)
    scan = reader.tile(reader.info.levels - 1, 0, 0)
    scan = scan[scan.index(b"\xff\xda") :]
    start = data.index(scan)
    data[start - 400 : start + len(scan)] = bytes(len(scan) + 400)
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        verify_slide(path)
    assert caught.value.code == "slide.unreadable"


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_jpeg_is_found(tmp_path: Path, pixels: np.ndarray, share: float) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for action in (
        lambda: verify_slide(path),
        lambda: write_pyramid(path, tmp_path / "out.tif", mpp=0.5, mpp_source="x"),
    ):
        with pytest.raises(InputError) as caught:
            action()
        assert caught.value.code == "slide.truncated"
    assert [p.name for p in tmp_path.iterdir()] == ["cut.jpg"]


@pytest.mark.parametrize("name", ["x.tif", "x.svs", "x.png", "x.ndpi"])
@pytest.mark.parametrize("content", [b"", b"hello", b"II*\0\xff\xff\xff\x7f"])
def test_unreadable_slide(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        verify_slide(tmp_path / name)
    assert caught.value.code in {"slide.unreadable", "slide.truncated"}
    assert caught.value.remedy


def test_missing_slide(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_slide(tmp_path / "none.tif")
    assert caught.value.code == "slide.unreadable"


def test_sixteen_bit_image_is_refused(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.uint16))
    with pytest.raises(InputError, match="8-bit"):
        write_pyramid(tmp_path / "deep.tif", tmp_path / "out.tif", mpp=0.5, mpp_source="x")
