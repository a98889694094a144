"""What a survey does to its images, on the flux and in physical units.

Each perturbation turns inputs into fluxes by the link of the input space, changes those, and turns them back; where a
flux stays as it was the input does, to the last bit. How the images were taken comes from the facts of the input
space; the parameter ``conditions`` completes or overrides them. JPEG, which knows no physical unit, is
``corruptions/jpeg``.
"""
