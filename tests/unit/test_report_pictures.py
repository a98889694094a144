"""Pictures of a report: figures of plugins, and examples of perturbed inputs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
import reports
from PIL import Image

from advbench.report import panels, pictures
from advbench.report.page import write_report
from advbench.report.rows import read_sources


def decoded(uri: str) -> Image.Image:
    kind, data = uri.split(",", 1)
    assert kind.startswith("data:image/")
    assert kind.endswith(";base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = boards.write_run(tmp_path / "run", [boards.cell(boards.classified([1, 0], [1, 0]))])
    (folder / "figures").mkdir()
    return folder


def listed(run: Path, *paths: str) -> list[pictures.Picture]:
    entries = [
        {"figure": "toys/f", "pictures": [{"path": path, "caption": f"This is {path}"} for path in paths]}
    ]
    (run / pictures.LISTING).write_text(json.dumps(entries))
    return pictures.figures(read_sources([run]))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


# --- figures of plugins ------------------------------------------------------------------------------------------


def test_a_picture_of_ordinary_size_is_embedded_byte_by_byte(run: Path) -> None:
    noise(80, 40).save(run / "figures" / "a.png")
    (found,) = listed(run, "figures/a.png")
    assert (found.caption, found.figure, found.width, found.height, found.note) == (
        "This is figures/a.png", "toys/f", 80, 40, "",
    )  # fmt: skip
    assert base64.b64decode(found.uri.partition(",")[2]) == (run / "figures" / "a.png").read_bytes()


def test_a_wide_picture_is_scaled_down(run: Path) -> None:
    noise(2000, 100).save(run / "figures" / "wide.png")
    (found,) = listed(run, "figures/wide.png")
    assert decoded(found.uri).size == (found.width, found.height) == (1200, 60)


def test_an_animation_moves_unless_it_is_huge(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [noise(60, 60, seed) for seed in range(3)]
    frames[0].save(run / "figures" / "a.gif", save_all=True, append_images=frames[1:])
    (found,) = listed(run, "figures/a.gif")
    assert getattr(decoded(found.uri), "n_frames", 1) == 3
    monkeypatch.setattr(pictures, "LARGEST_MOVING", 100)
    (found,) = listed(run, "figures/a.gif")
    assert getattr(decoded(found.uri), "n_frames", 1) == 1
    assert found.note.startswith("the first picture of an animation")


def test_an_svg_is_an_image_in_which_no_script_runs(run: Path) -> None:
    (run / "figures" / "a.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    )
    (found,) = listed(run, "figures/a.svg")
    assert found.uri.startswith("data:image/svg+xml;base64,")
    write_report([run], run / "page.html")
    assert f'<img src="{found.uri}"' in (run / "page.html").read_text()


def test_a_table_is_shown_as_text(run: Path) -> None:
    (run / "figures" / "a.csv").write_text("name,value\n<b>,1\n")
    (found,) = listed(run, "figures/a.csv")
    assert (found.text, found.uri) == ("name,value\n<b>,1\n", "")
    write_report([run], run / "page.html")
    assert "&lt;b&gt;,1\n</pre>" in (run / "page.html").read_text()


def test_what_cannot_be_shown_is_named_with_the_reason(run: Path) -> None:
    (run / "figures" / "a.pdf").write_bytes(b"%PDF")
    (run / "figures" / "b.png").write_bytes(b"no picture")
    (run.parent / "secret.png").write_bytes(b"")
    outside = ("../secret.png", str(run.parent / "secret.png"))
    found = listed(run, "figures/a.pdf", "figures/b.png", "figures/gone.png", *outside)
    assert [one.uri for one in found] == [""] * 5
    assert found[0].note == "a file .pdf, which a page cannot show"
    assert found[1].note.startswith("not shown: cannot identify image file")
    assert found[2].note == "not shown: the file is gone"
    assert {one.note for one in found[3:]} == {"not shown: it lies outside the run's folder"}


def test_a_link_out_of_the_folder_is_not_followed(run: Path) -> None:
    (run.parent / "secret.txt").write_text("secret")
    (run / "figures" / "a.txt").symlink_to(run.parent / "secret.txt")
    (found,) = listed(run, "figures/a.txt")
    assert (found.text, found.note) == ("", "not shown: it lies outside the run's folder")


def test_the_page_does_not_grow_without_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        noise(30, 30).save(run / "figures" / f"{name}.png")
    one = len(listed(run, "figures/a.png")[0].uri)
    monkeypatch.setattr(pictures, "ALL_OF_THEM", 2 * one + 10)
    found = listed(run, "figures/a.png", "figures/b.png", "figures/c.png")
    assert [bool(picture.uri) for picture in found] == [True, True, False]
    assert "would be larger than" in found[2].note


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '[{"pictures": 3}]', '[{"pictures": [{"caption": "x"}]}]']
)
def test_a_damaged_listing_shows_nothing(run: Path, text: str) -> None:
    (run / pictures.LISTING).write_text(text)
    assert pictures.figures(read_sources([run])) == []


# --- examples ----------------------------------------------------------------------------------------------------


def kept(tmp_path: Path, clean: Any, perturbed: Any, **changes: Any) -> list[panels.Panel]:
    """Panels of a run with one attacked row whose samples 1 and 3 are fooled."""
    outcomes = boards.classified([1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 1])
    rows = [boards.cell(outcomes, **reports.pgd(0.1), cell_id="aa")]
    run = boards.write_run(tmp_path / "run", rows)
    (run / "inputs").mkdir()
    arrays = {"id": outcomes["id"][: len(clean)], "clean": clean, "perturbed": perturbed, **changes}
    np.savez(run / "inputs" / "aa.npz", **arrays)
    return panels.panels(read_sources([run]))


def test_examples_begin_with_what_was_fooled(tmp_path: Path) -> None:
    clean = np.zeros((6, 1, 4, 4), np.float32)
    clean[:, :, 0, 0] = 10.0  # bounds are those of the data, not 0 and 1
    perturbed = clean.copy()
    perturbed[3, 0, 1, 1] = -2.5
    (panel,) = kept(tmp_path, clean, perturbed)
    assert (panel.row, panel.network, panel.perturbation, panel.knowledge) == (
        0,
        "net",
        "pgd(eps=0.1)",
        "adaptive",
    )
    assert [one.sample for one in panel.examples] == ["s0001", "s0003", "s0000", "s0002"]
    first, second = panel.examples[:2]
    assert (first.target, first.clean, first.perturbed, first.fooled) == ("0", "0", "1", True)
    assert (first.scale, second.scale) == ("0", "2.5")
    assert (first.black, first.white) == ("0", "9.25")  # one pixel of 16 is 10: 10 * (0.995 * 15 - 14)
    change = np.asarray(decoded(second.change))
    assert change.shape == (4, 4)
    assert change[1, 1] == 0
    assert set(np.delete(change.ravel(), 5)) == {128}
    before, after = np.asarray(decoded(second.before)), np.asarray(decoded(second.after))
    assert (before[0, 0], before[1, 1], after[1, 1]) == (255, 0, 0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (5, "L")])
def test_any_number_of_channels(tmp_path: Path, channels: int, mode: str) -> None:
    clean = np.random.default_rng(0).random((2, channels, 6, 8)).astype(np.float32)
    (panel,) = kept(tmp_path, clean, clean + 0.1)
    images = [
        decoded(uri) for uri in (panel.examples[0].before, panel.examples[0].change, panel.examples[0].after)
    ]
    assert {(image.mode, image.size) for image in images} == {(mode, (8, 6))}
    assert panel.shown == {
        1: "", 2: "mean of the channels", 3: "channel 1, channel 2, channel 3 as red, green, blue",
        5: "mean of the channels",
    }[channels]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "colours"),
    [
        ("gri", [2, 1, 0]),
        ("rig", [1, 0, 2]),
        ("ugriz", [3, 2, 1]),
        ("griz", [2, 1, 0]),
        ("rgb", [0, 1, 2]),
        (("red", "green", "blue"), [0, 1, 2]),
        (("band 1", "band 2"), []),
        ("gggg", []),
        ("g", []),
    ],
)
def test_bands_of_a_survey_are_shown_with_the_reddest_in_red(names: Any, colours: list[int]) -> None:
    assert panels.colours_of(names) == colours


def test_names_of_channels_and_classes_are_used_where_the_run_kept_them(tmp_path: Path) -> None:
    clean = np.zeros((2, 3, 4, 4), np.float32)
    clean[:, 2] = 1.0  # bright in i alone, which is red
    clean[:, 2, 0] = 0.0
    names = {"channel": np.array(["g", "r", "i"]), "class": np.array(["spiral", "<b>", "merger"])}
    (panel,) = kept(tmp_path, clean, clean, **names)
    assert panel.shown == "i, r, g as red, green, blue"
    assert (panel.examples[0].target, panel.examples[0].perturbed) == ("spiral", "<b>")
    assert np.asarray(decoded(panel.examples[0].before))[2, 2].tolist() == [255, 0, 0]


def test_a_large_image_is_thinned(tmp_path: Path) -> None:
    clean = np.zeros((1, 1, 400, 200), np.float32)
    (panel,) = kept(tmp_path, clean, clean)
    assert decoded(panel.examples[0].before).size == (67, 134)


def test_a_value_that_is_not_finite_hurts_nothing(tmp_path: Path) -> None:
    clean = np.zeros((1, 1, 4, 4), np.float32)
    clean[0, 0, 0, 0] = np.nan
    (panel,) = kept(tmp_path, clean, clean)
    assert np.asarray(decoded(panel.examples[0].change)).max() == 128


@pytest.mark.parametrize(
    "changes",
    [{"clean": np.zeros((2, 7))}, {"perturbed": np.zeros((2, 1, 3, 3))}, {"id": np.array(["s0001"])},
     {"id": np.array(["x", "y"])}],
)  # fmt: skip
def test_what_is_no_image_or_does_not_fit_is_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    image = np.zeros((2, 1, 4, 4))
    assert kept(tmp_path, **{"clean": image, "perturbed": image, **changes}) == []


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    run = reports.write_everything(tmp_path / "made")
    assert len(panels.panels(read_sources([run]))) == 1
    (path,) = (run / "inputs").iterdir()
    path.write_bytes(b"PK")
    assert panels.panels(read_sources([run])) == []
