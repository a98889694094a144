"""Engines start workers on job files."""
