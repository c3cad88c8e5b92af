"""Removal attacks on a watermarked denoiser, one function each, named as in the literature.

The taxonomy is that of Lukas et al., "SoK: How Robust is Deep Neural Network Image Classification Watermarking?" (2022),
carried over from classifiers to diffusion models. Every attack takes a :class:`Thief` and returns a new denoiser of the same
architecture; the stolen model stays as it is. None of them knows the owner's key.
"""

from aiao_core.attacks.thief import Thief

__all__ = ["Thief"]
