"""What must be equal for two rows to be comparable."""

PROTOCOL = 4
"""Version of the evaluation protocol: order of steps, tolerances, losses of the harness, meaning of columns.
It is bumped whenever the same suite on the same data may give other numbers, or a column another meaning."""

SCHEMA = 4
"""Version of the leaderboard's columns."""

BUDGET_TOLERANCE = 1e-6
"""Relative excess over a budget that is still accepted, beyond the rounding of the stored inputs."""

DTYPE = "float32"
"""Precision of the judging forward pass."""
