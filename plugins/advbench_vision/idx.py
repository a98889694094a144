"""The IDX format of the MNIST family, http://yann.lecun.com/exdb/mnist/ (big-endian header, then bytes)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advbench.api import Classification, Data, DataContext, DataError

from .pixels import carve, remainder, unit_space

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
