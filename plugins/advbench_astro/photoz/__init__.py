"""Photometric redshifts: galaxies in u, g, r, i, z with a redshift to be guessed, and the networks of the field."""
