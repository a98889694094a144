"""A plugins folder with the components that the contract kit works with."""
