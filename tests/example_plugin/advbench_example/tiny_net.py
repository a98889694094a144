"""A small convolutional network."""

from torch import nn

from advbench.api import InputSpace, Model, Recipe, Task, param


class TinyNet(Model):
    """Two convolutions and a linear layer, for images of any size."""

    width: int = param(8, "channels after the first convolution", ge=1)
    recipe: Recipe = param(Recipe(epochs=8, batch_size=32, lr=0.01), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Why the network cannot be built for these inputs, or None."""
        fits = len(space.shape) == 3 and min(space.shape[1:]) >= 4
        return None if fits else f"takes images of at least 4x4 pixels, not {space.shape}"

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; it returns logits, or predictions of a regressor."""
        return nn.Sequential(
            nn.Conv2d(space.shape[0], self.width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(self.width, 2 * self.width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * self.width, task.outputs),
        )
