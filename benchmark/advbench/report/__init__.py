"""Figures and pages of a finished run."""
