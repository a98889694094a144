"""Your own networks: factories, checkpoints of every kind, declared normalisation, published weights."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from advbench.api import Classification, DataContext, InputSpace, Recipe, Regression, UserError
from advbench_own import factories
from advbench_own.module import Module
from advbench_vision.lenet5 import LeNet5Network
from advbench_vision.mnist import Mnist

SPACE = InputSpace((3, 4, 4), (0.0,) * 3, (1.0,) * 3, ("r", "g", "b"))
THREE = Classification(("a", "b", "c"))


class Net(nn.Module):
    """A network with a buffer, as batch norm has."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(x)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Residual block with option-A shortcuts: stride 2 and zero channels, no parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.extra = (1 if inputs == outputs else 2), outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        half = self.extra // 2
        short = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return torch.relu(y + short)


class ResNet20(nn.Module):
    """The ResNet-20 of He et al. 2015 for CIFAR-10, https://arxiv.org/abs/1512.03385."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.fixture(autouse=True)
def _nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factories ``nets:...`` of this module, whose own import path depends on how pytest was started."""
    nets = ModuleType("nets_of_this_test")
    vars(nets).update(Net=Net, ResNet20=ResNet20, text=lambda: "no module")
    monkeypatch.setitem(sys.modules, nets.__name__, nets)


def own(name: str = "Net", **settings: Any) -> Module:
    return Module(factory=f"nets_of_this_test:{name}", **settings)


@pytest.fixture
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {name: value.clone() for name, value in Net().state_dict().items()}


def equal(first: Any, second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: OrderedDict(state),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
)
def test_checkpoints_of_every_kind(
    tmp_path: Path, state: dict[str, Tensor], wrap: Callable[[Any], Any]
) -> None:
    torch.save(wrap(state), tmp_path / "net.pt")
    weights = own(weights="net.pt").pretrained([tmp_path])
    assert weights is not None
    module = own().build(SPACE, THREE)
    module.load_state_dict(dict(weights))
    assert equal(module.state_dict(), state)


def test_safetensors_and_prefix(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = {"loss.weight": torch.ones(3)}
    save_file({f"net.{name}": value for name, value in state.items()} | other, tmp_path / "net.safetensors")
    weights = own(weights="net.safetensors", prefix="net.").pretrained([tmp_path])
    assert weights is not None
    assert set(weights) == set(state)
    assert all(torch.equal(weights[name], value) for name, value in state.items())
    with pytest.raises(UserError, match=r"no weight starts with the prefix 'nut\.'; there are loss.*6 more"):
        own(weights="net.safetensors", prefix="nut.").pretrained([tmp_path])


def test_a_network_with_a_child_named_module_keeps_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = nn.DataParallel(nn.Linear(2, 3))
    torch.save(wrapped.state_dict(), tmp_path / "net.pt")
    monkeypatch.setattr("nets_of_this_test.Net", lambda: nn.DataParallel(nn.Linear(2, 3)))
    weights = own(weights="net.pt").pretrained([tmp_path])
    assert weights is not None
    assert set(weights) == {"module.weight", "module.bias"}


def test_names_and_shapes_that_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    def message(changed: dict[str, Tensor], **settings: Any) -> str:
        torch.save(changed, tmp_path / "net.pt")
        with pytest.raises(UserError) as caught:
            own(weights="net.pt", **settings).pretrained([tmp_path])
        return str(caught.value)

    renamed = {name.replace("head", "fc"): value for name, value in state.items()}
    assert message(renamed).endswith(
        "net.pt: the weights do not fit the network; missing: head.weight, head.bias; unexpected: fc.weight, fc.bias"
    )
    many = {f"layer{i}": torch.zeros(1) for i in range(9)}
    assert "unexpected: layer0, layer1, layer2, layer3 and 5 more" in message(many)
    assert "head.weight has shape (3, 4), the network needs (7, 4)" in message(state, kwargs={"classes": 7})


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "numbers.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(Net(), tmp_path / "pickled.pt")
    (tmp_path / "text.pt").write_text("no")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.safetensors").write_text("no")
    (tmp_path / "net.onnx").touch()
    for name, message in {
        "numbers.pt": "no state dict in it, nor under state_dict, .*there are epoch, best",
        "list.pt": "holds a list, not a state dict",
        "pickled.pt": r"cannot be loaded without running code.*torch.save\(model.state_dict\(\), path\)",
        "text.pt": "cannot be loaded without running code",
        "empty.pt": "cannot be loaded without running code",
        "text.safetensors": "not a readable safetensors file",
        "net.onnx": "weights are .safetensors or one of",
        "absent.pt": "'absent.pt' not found",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            own(weights=name).pretrained([tmp_path])
        assert name in str(caught.value)


def test_weights_leave_the_global_generator_as_it_was(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "net.pt")
    before = torch.random.get_rng_state()
    own(weights="net.pt").pretrained([tmp_path])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_where_weights_are_looked_for(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    torch.save(state, "net.pt")
    assert own(weights="net.pt").pretrained([tmp_path / "data"]) is not None
    assert own(weights=str(tmp_path / "net.pt")).pretrained([]) is not None
    assert list(own(weights="net.pt").files([tmp_path / "data"])) == [Path("net.pt")]
    torch.save({name: value + 1 for name, value in state.items()}, "data/net.pt")
    weights = own(weights="net.pt").pretrained([tmp_path / "data"])
    assert weights is not None
    assert torch.equal(weights["head.bias"], state["head.bias"] + 1)  # data folders come first


def test_without_weights_it_is_trained() -> None:
    model = own(recipe={"epochs": 3})
    assert model.pretrained([]) is None
    assert model.recipe == Recipe(epochs=3)
    assert own(name="Net").normalisation() == "none"
    assert own(normalise="train").normalisation() == "train"


def test_declared_statistics() -> None:
    mean, std = own(mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3]).normalisation()
    assert (tuple(mean), tuple(std)) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    for settings, message in (
        ({"mean": [0.5]}, "mean has 1 entries and std 0"),
        ({"mean": [0.5], "std": [0.0]}, "std must be positive"),
        ({"mean": [0.5], "std": [1.0], "normalise": "train"}, "not both"),
    ):
        with pytest.raises(ValidationError, match=message):
            own(**settings)


def test_what_it_is_made_for() -> None:
    assert own().supports(SPACE, THREE) is None
    assert own(input_shape=[3, 4, 4], outputs=3, mean=[0] * 3, std=[1] * 3).supports(SPACE, THREE) is None
    for settings, reason in (
        ({"mean": [0.5], "std": [1.0]}, "mean and std are for 1 channels, the inputs have 3"),
        ({"input_shape": [1, 28, 28]}, "made for inputs (1, 28, 28), the data have (3, 4, 4)"),
        ({"outputs": 10}, "made for 10 outputs, the data need 3"),
    ):
        assert own(**settings).supports(SPACE, THREE) == reason
    assert own(outputs=1).supports(SPACE, Regression(("z",), 0.1)) is None


def test_factory_must_return_a_module() -> None:
    with pytest.raises(UserError, match="returned str, not a torch module"):
        own("text").build(SPACE, THREE)


def test_parameters_survive_json(tmp_path: Path) -> None:
    """A resolved suite holds them by the names of the fields."""
    model = own(weights="net.pt", kwargs={"classes": 3}, mean=[0, 0, 0], std=[1, 1, 1])
    assert Module(**model.model_dump(mode="json")) == model


def test_source_of_the_factory_is_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_in_this_folder.py").write_text("build = 1\n")
    (tmp_path / "net.pt").touch()
    files = Module(factory="nets_in_this_folder:build", weights="net.pt").files([])
    assert [path.name for path in files] == ["net.pt", "nets_in_this_folder.py"]
    assert factories.sources("nets_in_this_folder:build") == [tmp_path / "nets_in_this_folder.py"]


def accuracy(network: nn.Module, x: Tensor, y: np.ndarray) -> float:
    with torch.no_grad():
        outputs = [network.eval()(part) for part in x.split(250)]
    # LeNet5 returns features before its logits.
    logits = [one[1] if isinstance(one, tuple) else one for one in outputs]
    predicted = torch.cat(logits).argmax(1)
    return float((predicted.numpy() == y).mean())


@pytest.mark.parametrize("name", ["clntrained", "advtrained"])
def test_published_lenet5(shared_data: Path, data_context: Callable[..., DataContext], name: str) -> None:
    test = Mnist().load(data_context(shared_data)).splits["test"]
    model = Module(factory="advbench_vision.lenet5:LeNet5Network", weights=f"models/mnist_lenet5_{name}.pt")
    network = model.build(SPACE, THREE)
    assert isinstance(network, LeNet5Network)
    weights = model.pretrained([shared_data])
    assert weights is not None
    network.load_state_dict(dict(weights))
    # 0.9889 and 0.9864 on all 10,000 test images; the first 2,000 are harder.
    assert accuracy(network, torch.from_numpy(test.x[np.arange(len(test))]), test.y) > 0.97


def test_published_resnet20(shared_data: Path) -> None:
    with np.load(shared_data / "cifar10" / "cifar10_test100.npz") as file:
        x, y = torch.from_numpy(file["x"]).permute(0, 3, 1, 2) / 255, file["y"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = own("ResNet20", weights="models/cifar10_resnet20.th", mean=mean, std=std)
    network = model.build(SPACE, THREE)
    weights = model.pretrained([shared_data])
    assert weights is not None
    network.load_state_dict(dict(weights))
    view = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    assert accuracy(network, (x - view[0]) / view[1], y) >= 0.88  # 0.925 on 200 images
