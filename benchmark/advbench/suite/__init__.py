"""From YAML text to a validated suite, its grid of cells and its plan of jobs."""
