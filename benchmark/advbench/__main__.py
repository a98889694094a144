"""``python -m advbench`` is the console script ``advbench``."""

from advbench.cli.main import main

main()
