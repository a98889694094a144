"""Data of your own in array files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from advbench.api import Data, DataContext, DataError, Dataset, Split, param
from advbench_own.lookup import locate
