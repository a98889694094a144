"""Corruptions that do not look at the network."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the corruptions."""
    register("gaussian-noise", "advbench_corruptions.gaussian_noise:GaussianNoise")
    register("poisson-noise", "advbench_corruptions.photon_noise:PoissonNoise")
    register("speckle-noise", "advbench_corruptions.photon_noise:SpeckleNoise")
    register("impulse-noise", "advbench_corruptions.impulse_noise:ImpulseNoise")
    register("gaussian-blur", "advbench_corruptions.gaussian_blur:GaussianBlur")
    register("defocus-blur", "advbench_corruptions.psf_blur:DefocusBlur")
    register("motion-blur", "advbench_corruptions.psf_blur:MotionBlur")
    register("moffat-blur", "advbench_corruptions.psf_blur:MoffatBlur")
    register("jpeg", "advbench_corruptions.jpeg:JPEG")
    register("bit-depth", "advbench_corruptions.quantisation:BitDepth")
    register("quantisation", "advbench_corruptions.quantisation:Quantisation")
    register("pixelate", "advbench_corruptions.resampling:Pixelate")
    register("resample", "advbench_corruptions.resampling:Resample")
    register("rotation", "advbench_corruptions.rotation:Rotation")
    register("translation", "advbench_corruptions.shift:Translation")
    register("subpixel-shift", "advbench_corruptions.shift:SubpixelShift")
    register("elastic", "advbench_corruptions.elastic:Elastic")
    register("brightness", "advbench_corruptions.photometry:Brightness")
    register("contrast", "advbench_corruptions.photometry:Contrast")
    register("saturation", "advbench_corruptions.photometry:Saturation")
    register("gamma", "advbench_corruptions.photometry:Gamma")
    register("bad-pixels", "advbench_corruptions.detector:BadPixels")
    register("bad-columns", "advbench_corruptions.detector:BadColumns")
    register("occlusion", "advbench_corruptions.detector:Occlusion")
