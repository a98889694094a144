"""The life of a cell: perturb, verify, judge; nothing a plugin says is believed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import Confidence, Jitter, Net, Noise, Rogue, Round, Step, Wander, case, data, pipeline, samples

from advbench.api import Attack, Budget, Constraint, Defense, Rng, Tags, Target, UserError
from advbench.errors import AdvbenchError, CellTimeout, PluginError
from advbench.runtime.cell import predict
from advbench.runtime.crafting import craft
from advbench.runtime.detection import calibrated
from advbench.runtime.judging import judge
from advbench.runtime.network import Network, Untouched, freeze
from advbench.runtime.verify import verify

BAND_EPS = Budget.of([0.01, 0.1, 0.5, 1.0, 3.0])


@pytest.mark.parametrize(
    "perturbation", [Step(eps=2), Wander(eps=4), Noise()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("defenses", [(), (Round(),), (Jitter(),)], ids=["none", "round", "jitter"])
def test_a_sample_depends_on_nothing_but_itself(perturbation: object, defenses: tuple[Defense, ...]) -> None:
    blobs = data(n=100)
    whole = pipeline(blobs, defenses, chunk=4)
    n = len(blobs.splits["test"])
    reference = judge(
        case(perturbation, whole, samples(blobs)), craft(case(perturbation, whole, samples(blobs)))
    )
    order = np.random.default_rng(1).permutation(n)
    variants = [
        (np.arange(n), {"batch": 1}),
        (np.arange(n), {"batch": 7}),
        (np.arange(n), {"batch": 64}),
        (order, {"batch": 16}),
        (np.arange(11), {}),
    ]
    for rows, options in variants:
        one = case(perturbation, whole, samples(blobs, rows), **options)
        outcomes = judge(one, craft(one))
        for name, values in outcomes.items():
            assert np.array_equal(values, reference[name][rows]), (name, options)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads: int) -> None:
    blobs = data()
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            one = case(Step(eps=2), pipeline(blobs), samples(blobs))
            results.append((craft(one).x, predict(one.judged, one.samples, 0)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_misclassified_samples_are_not_attacked_and_count_as_wrong() -> None:
    blobs = data()
    one = case(Step(eps=5), pipeline(blobs), samples(blobs))
    crafted = craft(one)
    outcomes = judge(one, crafted)
    wrong = ~outcomes["clean_correct"]
    assert 0 < wrong.sum() < len(wrong)
    assert torch.equal(crafted.x[torch.from_numpy(wrong)], one.samples.x[torch.from_numpy(wrong)])
    assert (outcomes["forward_passes"] == np.where(wrong, 0, 1)).all()
    assert (outcomes["backward_passes"] == np.where(wrong, 0, 1)).all()


def test_finished_samples_leave_and_cost_nothing_more() -> None:
    blobs = data()
    one = case(Wander(eps=20, tries=6), pipeline(blobs), samples(blobs))
    outcomes = judge(one, craft(one))
    spent = outcomes["forward_passes"][outcomes["clean_correct"]]
    assert spent.min() < 6
    assert spent.max() == 6 or (~outcomes["perturbed_correct"]).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("train", "train mode"),
        ("grad", "requires_grad on"),
        ("weights", "changed parameters"),
        ("inplace", "changed its inputs"),
        ("shape", "returned shape"),
        ("list", "not a tensor"),
        ("gradient", "does not grant"),
    ],
)
def test_broken_contracts_are_named(how: str, message: str) -> None:
    blobs = data()
    with pytest.raises(PluginError, match=message):
        craft(case(Rogue(how=how), pipeline(blobs), samples(blobs), knowledge="blackbox"))


def test_global_generators_are_left_as_found() -> None:
    blobs = data()
    one = case(Rogue(how="global_rng"), pipeline(blobs, (Jitter(),)), samples(blobs))
    state = torch.get_rng_state()
    judge(one, craft(one))
    assert torch.equal(state, torch.get_rng_state())


def test_violations_are_counted_projected_and_judged_again() -> None:
    blobs = data()
    one = case(Rogue(how="far", eps=BAND_EPS), pipeline(blobs), samples(blobs))
    crafted = craft(one)
    attacked = judge(one, crafted)["clean_correct"]
    assert (crafted.violation.numpy() == attacked).all()
    size = (crafted.x.double() - one.samples.x.double()).abs() / BAND_EPS.like(crafted.x.double())
    assert float(size.max()) <= 1 + 1e-6
    assert float(crafted.x.min()) >= -4
    assert float(crafted.x.max()) <= 50


def test_nan_becomes_the_clean_input_and_a_violation() -> None:
    blobs = data()
    one = case(Rogue(how="nan"), pipeline(blobs), samples(blobs))
    crafted = craft(one)
    assert torch.equal(crafted.x, one.samples.x)
    assert crafted.violation.any()


def test_rounding_of_the_stored_input_is_no_violation() -> None:
    # 8/255 on data near 50: x + eps is rounded by up to 2e-6, far more than 1e-6 of eps.
    x = torch.linspace(-4, 50, 5 * 36).view(1, 5, 6, 6)
    eps = Budget.of("8/255")
    verified = verify(x + eps.like(x), x, data().space, Constraint("linf", eps), "t")
    assert not verified.violation.any()
    over = verify(x + 1.001 * eps.like(x), x, data().space, Constraint("linf", eps), "t")
    assert over.violation.all()


def test_budget_of_passes_keeps_the_best_point_so_far() -> None:
    blobs = data()

    class Greedy(Attack):
        """Walks on for ever."""

        tags = Tags(needs_gradient=True)

        def perturb(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
            while True:
                x = (x + 0.5 * target.evaluate(x, y).gradient.sign()).clamp(-4, 50)

    one = case(Greedy(), pipeline(blobs), samples(blobs), budget=20)
    outcomes = judge(one, craft(one))
    attacked = outcomes["clean_correct"]
    assert (outcomes["forward_passes"] + outcomes["backward_passes"])[attacked].max() == 20
    assert (outcomes["perturbed_margin"] <= outcomes["clean_margin"])[attacked].all()
    assert (~outcomes["perturbed_correct"])[attacked].any()
    with pytest.raises(CellTimeout):
        craft(replace(one, budget=None, limits=replace(one.limits, seconds=0.2)))


def test_oblivious_attacks_are_crafted_on_the_undefended_network() -> None:
    blobs = data()
    bare, defended = pipeline(blobs), pipeline(blobs, (Round(),))
    oblivious = craft(case(Step(eps=1), defended, samples(blobs), knowledge="oblivious", crafting=bare))
    assert torch.equal(oblivious.x, craft(case(Step(eps=1), bare, samples(blobs))).x)
    assert not torch.equal(oblivious.x, craft(case(Step(eps=1), defended, samples(blobs))).x)


def test_random_defenses_are_attacked_in_expectation() -> None:
    blobs = data()
    one = case(Step(eps=1), pipeline(blobs, (Jitter(),)), samples(blobs))
    assert set(judge(one, craft(one))["forward_passes"].tolist()) <= {0, 16}


def test_detector_scores_and_threshold() -> None:
    blobs = data()
    calibration = samples(blobs, split="calibration")
    guard = calibrated(Confidence(), pipeline(blobs), calibration, 0, {})
    one = case(Step(eps=3), pipeline(blobs), samples(blobs), guard=guard)
    outcomes = judge(one, craft(one))
    clean = predict(one.judged, one.samples, 0).softmax(1).amax(1)
    np.testing.assert_allclose(outcomes["clean_score"], 1 - clean.double().numpy(), atol=1e-6)
    assert len(np.unique(outcomes["threshold"])) == 1
    scores = guard.scores(one.judged, calibration, 0).numpy()
    assert (guard.threshold, guard.fixed) == (np.quantile(scores, 0.9), False)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1])
def test_any_number_of_classes_and_regression(classes: int) -> None:
    blobs = data(classes)
    one = case(Step(eps=3), pipeline(blobs), samples(blobs))
    outcomes = judge(one, craft(one))
    changed = outcomes["perturbed_margin"] - outcomes["clean_margin"]
    assert changed.mean() < 0
    assert np.isfinite(outcomes["perturbed_margin"]).all()
    if classes == 1:
        assert outcomes["relative"].tolist() == [blobs.task.relative] * len(one.samples)
    else:
        assert "relative" not in outcomes


def test_wrong_number_of_outputs_and_probabilities() -> None:
    blobs = data()
    wrong = Network(Net(outputs=5).build(blobs.space, blobs.task), blobs.space, blobs.task, "toys/net").eval()
    with pytest.raises(PluginError, match=r"\(32, 5\).*3 classes"):
        wrong(torch.zeros(32, 5, 6, 6))
    one = case(None, pipeline(blobs), samples(blobs))
    soft = freeze(
        Network(Net(probabilities=True).build(blobs.space, blobs.task), blobs.space, blobs.task, "n")
    )
    assert "probabilities" not in judge(one, craft(one))
    soft_case = replace(one, judged=replace(one.judged, network=soft))
    assert judge(soft_case, craft(soft_case))["probabilities"].all()


def test_untouched_sees_every_kind_of_change() -> None:
    network = pipeline(data()).network
    guard = Untouched(network)
    assert guard.complaint() is None
    next(network.parameters()).grad = torch.zeros_like(next(network.parameters()))
    assert "gradients" in str(guard.complaint())


def test_normalisation_inside_equals_a_twin_without() -> None:
    blobs = data()
    whole = pipeline(blobs)
    inputs = samples(blobs).x[:32]
    twin = Network(whole.network.module, blobs.space, blobs.task, "twin").eval()
    direct = twin((inputs - whole.network.mean) / whole.network.std)
    torch.testing.assert_close(whole.network(inputs), direct, atol=1e-6, rtol=0)
    with pytest.raises(PluginError, match="std must be positive"):
        twin.normalise_by([0.0] * 5, [1.0, 1, 0, 1, 1])


def test_error_tree() -> None:
    assert issubclass(UserError, AdvbenchError)
    assert not issubclass(PluginError, UserError)


class Forgetful(torch.nn.Module):
    """Drops activations in eval mode too."""

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(self.whole(x)[1], 0.5)


class Restless(Forgetful):
    """Puts itself into train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.train()
        return self.whole(x)


def test_a_network_that_draws_at_random_is_flagged() -> None:
    blobs = data()
    whole = pipeline(blobs)
    honest = case(None, whole, samples(blobs))
    assert "unrepeatable" not in judge(honest, craft(honest))
    whole.network.module = Forgetful(whole.network.module).eval()
    doubtful = case(None, whole, samples(blobs))
    assert judge(doubtful, craft(doubtful))["unrepeatable"].all()


def test_a_network_that_leaves_eval_mode_is_named_itself() -> None:
    blobs = data()
    whole = pipeline(blobs)
    whole.network.module = Restless(whole.network.module).eval()
    one = case(None, whole, samples(blobs))
    with pytest.raises(PluginError, match="a forward pass left the network in train mode"):
        judge(one, craft(one))


def test_clean_outputs_are_computed_once_for_all_cells_that_share_them() -> None:
    blobs = data()
    whole, some = pipeline(blobs), samples(blobs)
    first, second = case(Step(eps=2), whole, some), case(Noise(), whole, some)
    memo: dict[object, object] = {}
    shared = [judge(one, craft(one)) for one in (replace(first, memo=memo), replace(second, memo=memo))]
    assert len(memo) == 3  # the outputs, whether they can be repeated, and the gradients
    for one, outcomes in zip((first, second), shared):
        alone = judge(one, craft(one))
        for name, values in alone.items():
            np.testing.assert_array_equal(values, outcomes[name])
    other = samples(blobs, np.arange(9))
    assert (
        len(judge(replace(case(None, whole, other), memo=memo), craft(case(None, whole, other)))["id"]) == 9
    )
