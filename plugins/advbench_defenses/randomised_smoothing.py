"""Randomised smoothing, Cohen et al. 2019, https://arxiv.org/abs/1902.02918."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import model_validator
from scipy.special import betainc, betaincinv, ndtri
from torch import Tensor

from advbench.api import Certificate, Defense, InputSpace, Prediction, Rng, Tags, param
from advbench_defenses.ensemble import count_votes, log_shares, mean_log_softmax

BLOCK = 2**16
"""Values of noise that one sample draws at a time, unless a single image has more."""


def binomial_p_value(first: Any, second: Any) -> Any:
    """Two-sided p-value that counts ``first >= second`` come from classes that are equally likely."""
    return np.minimum(1.0, 2.0 * betainc(first, second + 1, 0.5))


def log_normal_p_value(first: Tensor, second: Tensor) -> Tensor:
    """Logarithm of the same in the normal approximation, for counts that need not be integers."""
    z = (first - second) / (first + second).sqrt()
    half: Tensor = torch.special.erfcx(z / math.sqrt(2))
    return half.log() - z.square() / 2


def lower_bound(count: Any, total: int, alpha: float) -> Any:
    """Clopper-Pearson: the probability of ``count`` of ``total`` is at least this, but for probability ``alpha``."""
    return np.where(count > 0, betaincinv(np.maximum(count, 1), total - count + 1, alpha), 0.0)


def noisy_logits(x: Tensor, inside: Prediction, rng: Rng, *, sigma: float, count: int) -> Iterator[Tensor]:
    """Outputs (m, b, k) at ``x + sigma * n``, block by block until ``count`` draws are done.

    The noise leaves the bounds of the input space: the theorem is about noise that is not cut off. How large a
    block is depends on the size of an image alone, so that a sample gets the same noise in any company.
    """
    block = max(1, BLOCK // x[0].numel())
    for start in range(0, count, block):
        draws = min(block, count - start)
        noise = rng.normal(draws, *x.shape[1:]).to(x)
        points = x[:, None] + sigma * noise
        output = inside.output(points.flatten(0, 1))
        yield output.view(len(x), draws, -1).transpose(0, 1)


class RandomisedSmoothing(Defense):
    """Randomised smoothing, Cohen et al. 2019, https://arxiv.org/abs/1902.02918.

    The prediction is the class that the network gives most often under Gaussian noise (their PREDICT); it abstains
    where the two most frequent classes could be equally likely. A certificate (their CERTIFY) is an l2 radius,
    ``sigma * Phi^-1(pA)`` with a lower confidence bound ``pA`` of the probability of that class. It is worth
    something for networks that were trained with noise, which is another defense. The paper certifies with 100,000
    draws; 10,000, the default here, find radii of at most 3.2 instead of 3.8 sigma.

    Adaptive attacks climb the mean probability under noise, Salman et al. 2019 (https://arxiv.org/abs/1906.04584).
    Prediction, score and certificate have draws of their own. The paper abstains by the draws that it predicts from;
    here the probability to accept another class than that of infinitely many draws may reach 2.5 ``alpha`` (at 0.001).
    """

    tags: ClassVar[Tags] = Tags(
        tasks=frozenset({"classification"}),
        wraps=True,
        detects=True,
        certifies=True,
        stochastic=True,
        reference="https://arxiv.org/abs/1902.02918",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"samples": 20, "certify_samples": 100, "attack_samples": 4},
    )

    sigma: float = param(
        0.25, "standard deviation of the noise, the same for all channels", unit="input units", gt=0
    )
    samples: int = param(100, "draws for a prediction", ge=1)
    certify_samples: int = param(10_000, "further draws for a certificate", ge=1)
    alpha: float = param(0.001, "significance level of abstention and of certificates", gt=0, lt=0.5)
    attack_samples: int = param(16, "draws that an adaptive attack averages over at each step", ge=1)

    @model_validator(mode="after")
    def _some_input_is_accepted(self) -> RandomisedSmoothing:
        if 2 * 0.5**self.samples > self.alpha:
            least = math.ceil(1 - math.log2(self.alpha))
            raise ValueError(
                f"with samples: {self.samples} every input is rejected; alpha asks for at least {least}"
            )
        return self

    @property
    def draws(self) -> int:
        """1: what an attack goes through is a mean over draws already."""
        return 1

    @property
    def confidence(self) -> float:
        """``1 - alpha``."""
        return 1 - self.alpha

    def predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Logarithms of vote shares (b, k)."""
        return log_shares(*self._counted(x, inside, rng, self.samples))

    def surrogate_predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Logarithm of the mean probabilities over ``attack_samples`` draws."""
        return self._soft(x, inside, rng)

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """P-value (b,) in [0, 1] of the two most frequent classes being equally likely."""
        votes, _ = self._counted(x, inside, rng, self.samples)
        first, second = votes.topk(2, dim=1).values.double().cpu().numpy().T
        return torch.from_numpy(binomial_p_value(first, second)).to(x)

    def surrogate_score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """``alpha (2 - log p / log alpha)`` (b,), with p for mean probabilities in place of votes.

        It is above ``alpha`` where p is, but neither flat nor steep: ``alpha`` where p is that, twice it where p is 1.
        """
        first, second = (self._soft(x, inside, rng).exp() * self.samples).topk(2, dim=1).values.unbind(1)
        return self.alpha * (2 - log_normal_p_value(first, second) / math.log(self.alpha))

    def threshold(self, scores: Any) -> float:
        """``alpha``, whatever the clean scores are."""
        return self.alpha

    def certify(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Certificate:
        """Class and l2 radius in input units; ``samples`` draws choose the class, ``certify_samples`` bound it."""
        chosen = log_shares(*self._counted(x, inside, rng, self.samples)).argmax(1)
        votes, _ = self._counted(x, inside, rng, self.certify_samples)
        count = votes.gather(1, chosen[:, None])[:, 0].double().cpu().numpy()
        lowest = lower_bound(count, self.certify_samples, self.alpha)
        radius = torch.from_numpy(self.sigma * ndtri(np.maximum(lowest, 0.5))).to(x)
        certain = torch.from_numpy(lowest > 0.5).to(x.device)
        return Certificate(torch.where(certain, chosen, -1), radius)

    def _counted(self, x: Tensor, inside: Prediction, rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        """Votes and mean probabilities (b, k) of so many draws, none of which is kept."""
        blocks = noisy_logits(x, inside, rng, sigma=self.sigma, count=count)
        sums = [(count_votes(logits), logits.softmax(-1).sum(0)) for logits in blocks]
        votes, probability = (torch.stack(column).sum(0) for column in zip(*sums))
        return votes, probability / count

    def _soft(self, x: Tensor, inside: Prediction, rng: Rng) -> Tensor:
        blocks = noisy_logits(x, inside, rng, sigma=self.sigma, count=self.attack_samples)
        return mean_log_softmax(torch.cat(list(blocks)))
