"""Pictures that explain a finished run: latent space, robustness, redshifts."""
