"""Pictures: digits, image folders, and the networks of the adversarial-example papers."""

from __future__ import annotations

from advbench.api import Register, hookimpl


@hookimpl
def register_datasets(register: Register) -> None:
    """The MNIST family, scikit-learn's digits and folders of images."""
    register("mnist", "advbench_vision.mnist:Mnist")
    register("fashion-mnist", "advbench_vision.fashion_mnist:FashionMnist")
    register("digits", "advbench_vision.digits:Digits")
    register("image-folder", "advbench_vision.image_folder:ImageFolder")
    register("animals10", "advbench_vision.animals10:Animals10")


@hookimpl
def register_models(register: Register) -> None:
    """Convolutional networks of known size, and a small one for any size."""
    register("lenet5", "advbench_vision.lenet5:LeNet5")
    register("cw-net", "advbench_vision.cw_net:CwNet")
    register("stadv-a", "advbench_vision.stadv:StadvA")
    register("stadv-b", "advbench_vision.stadv:StadvB")
    register("stadv-c", "advbench_vision.stadv:StadvC")
    register("small-cnn", "advbench_vision.small_cnn:SmallCnn")
    register("vgg10-lighter", "advbench_vision.vgg10:Vgg10Lighter")
