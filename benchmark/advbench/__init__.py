"""advbench: a plugin-based benchmark harness for the robustness of neural networks.

Plugin authors import everything from :mod:`advbench.api`.
"""

__version__ = "0.1.0"
