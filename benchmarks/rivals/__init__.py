"""Watermarks of the literature, written from their papers, to compare AIAO with under the same conditions."""

from typing import Any

from benchmarks.rivals.input_output import WatermarkDiffusionProcess
from benchmarks.rivals.prompt_trigger import PromptTrigger
from benchmarks.rivals.rival import Detection, Owner, Rival
from benchmarks.rivals.trigger_residual import TriggerResidual
from benchmarks.rivals.uchida import Uchida

__all__ = ["RIVALS", "Detection", "Owner", "Rival"]

RIVALS: dict[str, tuple[Rival[Any], ...]] = {
    "unconditional": (WatermarkDiffusionProcess(), Uchida()),
    "text-to-image": (PromptTrigger(), TriggerResidual(), Uchida()),
}
"""By the kind of model that they watermark."""
