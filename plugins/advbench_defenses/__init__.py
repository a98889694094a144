"""Defenses."""

from advbench.api import Register, hookimpl


@hookimpl
def register_defenses(register: Register) -> None:
    """Register the defenses."""
    register("feature-squeezing", "advbench_defenses.feature_squeezing:FeatureSqueezing")
    register("squeezing-detector", "advbench_defenses.feature_squeezing:SqueezingDetector")
    register("jpeg", "advbench_defenses.jpeg:JPEG")
    register("gaussian-blur", "advbench_defenses.filters:GaussianBlur")
    register("median-blur", "advbench_defenses.filters:MedianBlur")
    register("opening", "advbench_defenses.filters:Opening")
    register("closing", "advbench_defenses.filters:Closing")
    register("total-variation", "advbench_defenses.total_variation:TotalVariation")
    register("random-resize", "advbench_defenses.random_resize:RandomResize")
    register("ensemble", "advbench_defenses.ensemble:Ensemble")
    register("mahalanobis", "advbench_defenses.mahalanobis:Mahalanobis")
    register("entropy", "advbench_defenses.entropy:Entropy")
    register("max-softmax", "advbench_defenses.max_softmax:MaxSoftmax")
    register("mc-dropout", "advbench_defenses.mc_dropout:MCDropout")
    register("randomised-smoothing", "advbench_defenses.randomised_smoothing:RandomisedSmoothing")
    register("distillation", "advbench_defenses.distillation:Distillation")
    register("adversarial-training", "advbench_defenses.adversarial_training:AdversarialTraining")
    register("fgsm-training", "advbench_defenses.adversarial_training:FGSMTraining")
    register("pgd-training", "advbench_defenses.adversarial_training:PGDTraining")
    register("ddn-training", "advbench_defenses.adversarial_training:DDNTraining")
    register("trades", "advbench_defenses.trades:TRADES")
    register("augmentation", "advbench_defenses.augmentation:Augmentation")
    register("domain-adaptation", "advbench_defenses.domain_adaptation:DomainAdaptation")
    register("transfer-learning", "advbench_defenses.transfer_learning:TransferLearning")


@hookimpl
def register_metrics(register: Register) -> None:
    """Register the metrics."""
    register("lipschitz-bound", "advbench_defenses.lipschitz:LipschitzBound")
