"""AIAO watermarks for diffusion models (arXiv 2405.00466): embedded between inner layers, verified with an exact probability.

Importing this package imports neither torch nor diffusers; the modules that compute import them.
"""

__version__ = "0.3.0"
