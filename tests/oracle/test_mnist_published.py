"""Published robustness of two LeNets on MNIST, with the pretrained weights of the optional data folder.

The PGD of Madry et al. (linf 0.3, 40 steps of 0.01) drives the clean-trained network to nothing and leaves the
adversarially trained one at 0.945 (one random start); 6.8 % success without a random start, on the full test set.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from advbench.cli.main import invoke

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "models").is_dir(), reason="needs ../shared/data (MNIST and weights)"
)

NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.linear2(self.linear1(x.flatten(1)).relu())
"""

SUITE = """\
version: 1
name: published
datasets:
  - {use: vision/mnist, limit: 150}
models:
  - {name: clean, use: own/module, params: {factory: "lenet:Net", weights: models/mnist_lenet5_clntrained.pt}}
  - {name: robust, use: own/module, params: {factory: "lenet:Net", weights: models/mnist_lenet5_advtrained.pt}}
perturbations:
  - none
  - {use: attacks/pgd, params: {norm: linf, eps: 0.3, alpha: 0.01, steps: 40, loss: ce}}
  - {use: attacks/apgd, params: {norm: linf, eps: 0.1, steps: 40}}
exclude:
  - {model: robust, perturbation: apgd}
"""


def test_pgd_reaches_the_published_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lenet.py").write_text(NETS)
    (tmp_path / "published.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(DATA.resolve()), "--cache", "cache", "--out", "out", "--display", "none"]
    assert invoke(["run", "published.yaml", *options]) == 0
    with (tmp_path / "out" / "leaderboard.csv").open(newline="") as handle:
        rows = {
            (row["model"], row["perturbation"]): float(row["perturbed"])
            for row in csv.DictReader(handle)
            if row["status"] == "ok"
        }
    assert rows["clean", "none"] > 0.96  # 0.9889 on all 10,000; the first test images are the hard ones
    assert rows["robust", "none"] > 0.96
    assert rows["clean", "pgd"] < 0.01
    assert 0.88 < rows["robust", "pgd"] < 0.97
    assert rows["clean", "apgd"] < 0.585  # of PGD with 40 steps, on the full test set
