"""Galaxy morphology as the Rubin Observatory's LSST will see it: data sets and networks."""

from __future__ import annotations

from advbench.api import Register, hookimpl


@hookimpl
def register_datasets(register: Register) -> None:
    """Simulated and published LSST galaxies."""
    register("lsst-mock", "advbench_astro.lsst_mock:LsstMock")
    register("lsst-zenodo", "advbench_astro.lsst_zenodo:LsstZenodo")
    register("photoz-mock", "advbench_astro.photoz.mock:PhotozMock")
    register("photoz-npz", "advbench_astro.photoz.npz:PhotozNpz")
    register("mergers-mock", "advbench_astro.mergers_mock:MergersMock")
    register("deepmerge", "advbench_astro.deepmerge:DeepMerge")
    register("survey-pair", "advbench_astro.survey_pair:SurveyPair")


@hookimpl
def register_models(register: Register) -> None:
    """Networks of the galaxy-morphology papers."""
    register("convnet", "advbench_astro.convnet:ConvNet")
    register("resnet18", "advbench_astro.resnet18:ResNet18")
    register("photoz-inception", "advbench_astro.photoz.inception:PhotozInception")
    register("photoz-cnn", "advbench_astro.photoz.cnn:PhotozCNN")
    register("deepmerge-cnn", "advbench_astro.deepmerge_cnn:DeepMergeCNN")


@hookimpl
def register_metrics(register: Register) -> None:
    """What is measured of galaxies."""
    register("balanced-accuracy", "advbench_astro.balanced_accuracy:BalancedAccuracy")


@hookimpl
def register_perturbations(register: Register) -> None:
    """What a survey does to its images, in physical units."""
    register("exposure", "advbench_astro.perturbations.exposure:Exposure")
    register("psf", "advbench_astro.perturbations.psf:PSF")
    register("sky-level", "advbench_astro.perturbations.sky:SkyLevel")
    register("sky-gradient", "advbench_astro.perturbations.sky:SkyGradient")
    register("zero-point", "advbench_astro.perturbations.photometry:ZeroPoint")
    register("band-offset", "advbench_astro.perturbations.photometry:BandOffset")
    register("astrometric-shift", "advbench_astro.perturbations.astrometry:AstrometricShift")
    register("pixel-scale", "advbench_astro.perturbations.pixel_scale:PixelScale")
    register("bad-pixels", "advbench_astro.perturbations.detector:BadPixels")
    register("bad-columns", "advbench_astro.perturbations.detector:BadColumns")
    register("cosmic-rays", "advbench_astro.perturbations.cosmic_rays:CosmicRays")
    register("satellite-trail", "advbench_astro.perturbations.satellite_trail:SatelliteTrail")
    register("bleed-trail", "advbench_astro.perturbations.bleed_trail:BleedTrail")
    register("transient", "advbench_astro.perturbations.sources:Transient")
    register("neighbours", "advbench_astro.perturbations.sources:Neighbours")
    register("fits-compression", "advbench_astro.perturbations.fits_compression:FitsCompression")


@hookimpl
def register_figures(register: Register) -> None:
    """Pictures that explain a run."""
    register("church-window", "advbench_astro.figures.church_window:ChurchWindow")
    register("isomap", "advbench_astro.figures.manifold:Isomap")
    register("latent-map", "advbench_astro.figures.latent_map:LatentMap")
    register("grad-cam", "advbench_astro.figures.grad_cam:GradCam")
    register("latent-distances", "advbench_astro.figures.latent_distances:LatentDistances")
    register("robustness-curves", "advbench_astro.figures.robustness_curves:RobustnessCurves")
    register("redshift-scatter", "advbench_astro.figures.redshift_scatter:RedshiftScatter")
    register("panels", "advbench_astro.figures.gallery:Panels")
    register("confusion", "advbench_astro.figures.confusion:Confusion")
    register("source-target", "advbench_astro.figures.source_target:SourceTarget")
    register("training-curves", "advbench_astro.figures.training_curves:TrainingCurves")
