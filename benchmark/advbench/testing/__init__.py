"""The contract kit for plugin authors: small named checks for every kind of component."""
