"""Image folders as data sets: classes, splits, broken files, the cache, real galaxies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from advbench.api import Data, DataContext, DataError
from advbench_vision import decoding
from advbench_vision.animals10 import Animals10
from advbench_vision.image_folder import ImageFolder

Contexts = Callable[..., DataContext]
SHADES = {"bright": 200, "dark": 20}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty flat images of each class, each with a shade of its own."""
    for label, shade in SHADES.items():
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(20):
            picture = np.full((12, 16, 3), shade + i, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / label / f"{i:02d}.png")
    return tmp_path


def all_ids(data: Data) -> list[str]:
    return sorted(str(sample) for split in data.splits.values() for sample in split.ids)


def test_labels_pixels_and_ids_belong_together(folder: Path, data_context: Contexts) -> None:
    data = ImageFolder(root="pictures", size=8).load(data_context(folder))
    assert data.task.classes == ("bright", "dark")
    assert data.space.shape == (3, 8, 8)
    assert data.space.channels == ("red", "green", "blue")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 24,
        "valid": 4,
        "calibration": 4,
        "test": 8,
    }
    for split in data.splits.values():
        x = split.x[np.arange(len(split))]
        assert x.dtype == np.float32
        for value, label, sample in zip(x, split.y, split.ids):
            name, number = str(sample).removesuffix(".png").split("/")
            assert label == data.task.classes.index(name)
            assert np.unique(value) == np.float32((SHADES[name] + int(number)) / 255)
        np.testing.assert_array_equal(np.bincount(split.y), len(split) // 2)  # stratified
    assert len(set(all_ids(data))) == 40


def test_only_training_is_wiggled(folder: Path, data_context: Contexts) -> None:
    assert ImageFolder(root="pictures", size=8).load(data_context(folder)).augment is not None
    still = ImageFolder(root="pictures", size=8, flip="none", rotation=0, shift=0)
    assert still.load(data_context(folder)).augment is None


def test_broken_files_are_named_and_left_out(folder: Path, data_context: Contexts) -> None:
    (folder / "pictures" / "dark" / "03.png").write_bytes(b"not an image")
    whole = (folder / "pictures" / "bright" / "05.png").read_bytes()
    (folder / "pictures" / "bright" / "05.png").write_bytes(whole[:45])
    (folder / "pictures" / "dark" / "readme.txt").write_text("passed over")
    data = ImageFolder(root="pictures", size=8).load(data_context(folder))
    assert [note.split(":")[0] for note in data.notes] == ["left out bright/05.png", "left out dark/03.png"]
    assert str(folder) not in " ".join(data.notes)  # no paths of this machine
    assert len(all_ids(data)) == 38
    assert not {"bright/05.png", "dark/03.png"} & set(all_ids(data))
    with pytest.raises(DataError, match=r"2 of 40 images cannot be read.*bright/05.png.*dark/03.png"):
        ImageFolder(root="pictures", size=8, strict=True).load(data_context(folder))


def test_pictures_are_decoded_once(
    folder: Path, data_context: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = decoding.read_picture
    decoded: list[Path] = []

    def counted(path: Path, **settings: object) -> object:
        decoded.append(path)
        return read(path, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "read_picture", counted)
    context, dataset = data_context(folder), ImageFolder(root="pictures", size=8)
    first = dataset.load(context).splits["test"]
    again = dataset.load(context).splits["test"]
    ImageFolder(root="pictures", size=8, split_seed=3, valid=0.2).load(context)
    assert len(decoded) == 40
    np.testing.assert_array_equal(first.x[np.arange(8)], again.x[np.arange(8)])
    Image.new("RGB", (12, 12), (1, 2, 3)).save(folder / "pictures" / "dark" / "00.png")
    changed = dataset.load(context)  # other content is another cache entry
    assert len(decoded) == 80
    assert all_ids(changed) == all_ids(dataset.load(context))


def test_too_few_images_for_the_splits(folder: Path, data_context: Contexts) -> None:
    rare = folder / "pictures" / "rare"
    rare.mkdir()
    Image.new("RGB", (8, 8)).save(rare / "only.png")
    with pytest.raises(DataError, match=r"too few images for the splits: 'rare' \(1 images, none in .*\)"):
        ImageFolder(root="pictures", size=8).load(data_context(folder))
    kept = ImageFolder(root="pictures", size=8, classes=("dark", "bright")).load(data_context(folder))
    assert kept.task.classes == ("bright", "dark")  # sorted, however they are listed
    with pytest.raises(DataError, match="only 'dark'"):
        ImageFolder(root="pictures", size=8, classes=("dark",)).load(data_context(folder))


def test_csv_with_columns_in_the_name(folder: Path, data_context: Contexts) -> None:
    lines = [f"{i:02d},{label},{'new' if i % 2 else 'old'}" for label in SHADES for i in range(20)]
    (folder / "pictures" / "table.csv").write_text("\n".join(["number,shade,age", *lines]))
    dataset = ImageFolder(
        root="pictures",
        csv="table.csv",
        file_name="{shade}/{number}.png",
        label_column="age",
        size=8,
        channels="grey",
    )
    with pytest.raises(DataError, match=r"no column 'label'"):
        dataset.model_copy(update={"label_column": "label"}).load(data_context(folder))
    data = dataset.load(data_context(folder))
    assert data.task.classes == ("new", "old")
    assert data.space.shape == (1, 8, 8)
    for split in data.splits.values():
        assert [int(str(sample)[-6:-4]) % 2 for sample in split.ids] == [1 - label for label in split.y]
    few = dataset.model_copy(update={"where": {"shade": "dark"}}).load(data_context(folder))
    assert all_ids(few) == [f"dark/{i:02d}.png" for i in range(20)]


def test_missing_file_of_a_csv_is_reported(folder: Path, data_context: Contexts) -> None:
    lines = [f"{label}/{i:02d}.png,{label}" for label in SHADES for i in range(20)]
    (folder / "table.csv").write_text("\n".join(["file,label", *lines, "dark/99.png,dark"]))
    data = ImageFolder(root="pictures", csv="table.csv", size=8).load(data_context(folder))
    assert len(data.notes) == 1
    assert "left out dark/99.png" in data.notes[0]


def test_files_decide_the_content(folder: Path) -> None:
    (folder / "table.csv").touch()
    assert list(ImageFolder(root="pictures").files([folder])) == [folder / "pictures"]
    with_table = ImageFolder(root="pictures", csv="table.csv")
    assert list(with_table.files([folder])) == [folder / "pictures", folder / "table.csv"]
    (folder / "pictures" / "table.csv").touch()
    assert list(with_table.files([folder])) == [folder / "pictures", folder / "pictures" / "table.csv"]
    assert list(ImageFolder(root="elsewhere").files([folder])) == []


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValidationError, match="sum to more than 1"):
        ImageFolder(root="r", test=0.9, valid=0.2)
    with pytest.raises(ValidationError, match="rows of a CSV"):
        ImageFolder(root="r", where={"a": "b"})


def test_real_galaxies(shared_data: Path, data_context: Contexts) -> None:
    dataset = ImageFolder(
        root="galaxy_gz1",
        csv="labels.csv",
        file_name="images/{objid}.jpeg",
        label_column="class",
        merge={"spiral_acw": "spiral", "spiral_cw": "spiral"},
        classes=("edge_on", "spiral"),
        crop=208,
        size=32,
    )
    data = dataset.load(data_context(shared_data))
    assert data.task.classes == ("edge_on", "spiral")
    assert data.notes == ()
    counts = sum(np.bincount(split.y, minlength=2) for split in data.splits.values())
    np.testing.assert_array_equal(counts, [150, 220])
    x = data.splits["train"].x[np.arange(len(data.splits["train"]))]
    # Galaxies sit in the centre of their frames.
    assert x[:, :, 12:20, 12:20].mean() > 2 * x[:, :, :4].mean()


def test_real_photos_of_all_sizes(shared_data: Path, data_context: Contexts) -> None:
    data = ImageFolder(root="animals3", size=24).load(data_context(shared_data))
    assert data.task.classes == ("cats", "dogs", "panda")
    assert data.notes == ()
    assert sum(len(split) for split in data.splits.values()) == 120
    with pytest.raises(DataError, match=r"'cavallo' \(1 images"):
        ImageFolder(root="animals10_mini/raw-img", size=24).load(data_context(shared_data))


def test_rare_classes_can_stay_where_they_have_images(folder: Path, data_context: Contexts) -> None:
    rare = folder / "pictures" / "rare"
    rare.mkdir()
    Image.new("RGB", (8, 8)).save(rare / "only.png")
    data = ImageFolder(root="pictures", size=8, rare="keep").load(data_context(folder))
    assert data.notes == ("few images: 'rare' (1 images, none in valid, calibration, test)",)
    assert list(data.splits["train"].ids).count("rare/only.png") == 1
    # Nothing can be learned of a class that is not in the training split.
    with pytest.raises(DataError, match="too few images"):
        ImageFolder(root="pictures", size=8, rare="keep", test=0.7).load(data_context(folder))


def test_animals10_shows_english_names_in_the_order_of_the_italian_ones(
    tmp_path: Path, data_context: Contexts
) -> None:
    for label in ("ragno", "cane", "gatto"):  # spider, dog, cat
        (tmp_path / "animals10" / "raw-img" / label).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (10, 9), (i, 0, 0)).save(
                tmp_path / "animals10" / "raw-img" / label / f"{i}.jpeg"
            )
    data = Animals10(size=8).load(data_context(tmp_path))
    assert data.task.classes == ("dog", "cat", "spider")
    for split in data.splits.values():
        assert {str(one).split("/")[0]: int(k) for one, k in zip(split.ids, split.y)} == {
            "cane": 0,
            "gatto": 1,
            "ragno": 2,
        }
    (tmp_path / "animals10" / "raw-img" / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "animals10" / "raw-img" / "cat" / "0.png")
    both = Animals10(size=8).load(data_context(tmp_path))
    assert both.task.classes == ("cane", "cat", "gatto", "ragno")


def test_missing_animals10_says_where_to_get_it_and_where_it_goes(
    tmp_path: Path, data_context: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError) as caught:
        Animals10().load(data_context(tmp_path))
    message = str(caught.value)
    assert "raw-img" in message
    assert str(tmp_path) in message
    assert "https://www.kaggle.com/datasets/alessiocorrado99/animals10" in message
    assert "DIR/raw-img/cane/*.jpeg" in message
    assert "\n" not in message


def test_animals10_from_a_folder_of_class_folders(folder: Path, data_context: Contexts) -> None:
    bare = folder / "pictures"
    data = Animals10(size=8).load(data_context(bare))
    assert data.task.classes == ("bright", "dark")
    assert list(Animals10(size=8).files([bare])) == [bare]
    (bare / "empty").mkdir()  # then it is some folder of data
    assert list(Animals10(size=8).files([bare])) == []
    with pytest.raises(DataError, match="kaggle"):
        Animals10(size=8).load(data_context(bare))


@pytest.mark.parametrize(("name", "classes", "images"), [("animals10_mini", 10, 38), ("animals3", 3, 120)])
def test_animals10_on_few_real_photos(
    shared_data: Path, data_context: Contexts, name: str, classes: int, images: int
) -> None:
    dataset = Animals10(size=32)
    data = dataset.load(data_context(shared_data / name))
    assert len(data.task.classes) == classes
    assert sum(map(len, data.splits.values())) == images
    assert len(np.unique(data.splits["train"].y)) == classes
    assert min(map(len, data.splits.values())) >= 1
    assert set(data.splits) == {"train", "valid", "calibration", "test"}
    assert len(set(all_ids(data))) == images
    assert data.augment is not None  # training batches only
    (root,) = dataset.files([shared_data / name])
    assert all((root / sample).is_file() for sample in all_ids(data))
