"""Animals-10: photos of ten kinds of animals, or any other photos in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from advbench.api import DataContext, DataError, param
from advbench_vision.image_folder import ImageFolder
from advbench_vision.pictures import is_picture

ENGLISH = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}
PAGE = "https://www.kaggle.com/datasets/alessiocorrado99/animals10"
HINT = (
    f"download Animals-10 from {PAGE} and unpack it, so that there are DIR/raw-img/cane/*.jpeg,"
    f" DIR/raw-img/cavallo/*.jpeg and so on ({', '.join(ENGLISH)}), then give --data DIR"
)


class Animals10(ImageFolder):
    """Photos of ten kinds of animals, from ``raw-img/<class>`` in a data folder or from a data folder of class folders.

    An image folder with the settings of the Animals-10 studies: 224x224 pixels, flips and rotations by up to 45
    degrees in training. Class ids follow the sorted names of the folders, as Kaggle has them in Italian; tables
    show them in English. The source studies also change colours and crop at random. A data folder without
    ``raw-img`` whose every folder has images in it is taken as the class folders themselves. Classes that are too
    small for every split stay in those where they have images.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"size": 16},)
    root: str = param("raw-img", "folder of the class folders", min_length=1)
    size: int = param(224, "side of the square that the network sees", unit="pixel", ge=4)
    rotation: float = param(45.0, "largest rotation of training images", unit="degree", ge=0, le=180)
    rare: Literal["refuse", "keep"] = param(
        "keep", "a class that has too few images for every split: an error, or kept where it has some"
    )

    def _found(self, folders: Sequence[Path]) -> Path | None:
        names = (folder / name for name in self._names() for folder in folders)
        first = next((folder for folder in folders if folder.exists()), None)
        bare = first if first is not None and _holds_classes(first) else None
        return next((path for path in names if path.exists()), bare)

    def _root(self, context: DataContext) -> Path:
        try:
            return context.find(*self._names(), hint=HINT)
        except DataError:
            folder = context.find(".")
            if _holds_classes(folder):
                return folder
            raise

    def _names(self) -> tuple[str, str]:
        return self.root, f"animals10/{self.root}"

    def _shown(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        english = tuple(ENGLISH.get(name, name) for name in classes)
        return english if len(set(english)) == len(english) else classes


def _holds_classes(folder: Path) -> bool:
    """Whether there are two folders or more and each visible one has images directly in it."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return len(inside) > 1 and all(any(map(is_picture, path.iterdir())) for path in inside)
