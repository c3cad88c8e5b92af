"""Write docs/forms.md from what the code reads: python -m tests.support.forms_page"""

from collections.abc import Iterable
from pathlib import Path

from aiao_core import denoisers
from aiao_core.formats import adapter_names, foreign, quantized
from aiao_core.formats.adapter_layers import KINDS
from aiao_core.formats.known_models import KNOWN_MODELS
from aiao_core.formats.original_layouts import LAYOUTS
from aiao_core.formats.other_inputs import INPUTS

PAGE = Path(__file__).parents[2] / "docs" / "forms.md"

HEAD = """# Forms and families: what is read, and what is refused

`make forms` writes this page from the code, and a test keeps it true. [README.md](../README.md) says how to submit each form.

Every family is registered as a diffusers pipeline folder, or as a .zip or .tar of one. A suspect of every family is read as
such a folder, as its denoiser's folder, and as files of weights by diffusers' names: safetensors, pickles, GGUF, in shards, in
archives.
"""

ADAPTERS = """
## Adapters

Each is merged into its base model before the test: {read}. DoRA is applied to those of low
rank. Layers are found by the names of diffusers, PEFT, kohya's programs and LyCORIS in every family; by the original program's
names, fused rows among them, in the families whose original layout is read. These are told by their tensors and refused:

| tensors' names | adapter |
| --- | --- |
"""

QUANTIZED = """
## Quantized weights

fp8 weights, with and without scales, and GGUF files of every type that the `gguf` package expands are read. These are refused:

| what | what to do |
| --- | --- |
"""

FOREIGN = """
## Files that are not models

| what | what to do |
| --- | --- |
"""


def render() -> str:
    """Return the page."""
    kinds = list(dict.fromkeys(KINDS.values()))
    return "".join(
        [
            HEAD,
            _families(),
            ADAPTERS.format(read=", ".join(kinds[:-1]) + " and " + kinds[-1]),
            *(f"| `{pattern.replace('|', chr(92) + '|')}` | {words} |\n" for pattern, words in adapter_names.FOREIGN.items()),
            QUANTIZED,
            *_rows(quantized.REFUSED.values()),
            FOREIGN,
            *_rows([(words, advice) for _, words, advice in foreign.MAGIC] + list(foreign.SUFFIXES.values())),
        ]
    )


def _families() -> str:
    lines = [
        "\n## Families\n\n",
        "| denoiser | original layout of suspects and adapters | registered as a single file | copies with other inputs |\n",
        "| --- | --- | --- | --- |\n",
    ]
    for name in denoisers.supported():
        published = ", ".join(model.name for model in KNOWN_MODELS if model.class_name == name and model.scheduler)
        inputs = INPUTS.get(name)
        other = "further input channels" + (", guidance" if inputs.guidance else "") if inputs else "refused"
        layout = "read" if name in LAYOUTS else "diffusers' names alone"
        lines.append(f"| `{name}` | {layout} | {published or 'with its configurations'} | {other} |\n")
    return "".join(lines)


def _rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {what} | {advice} |\n" for what, advice in dict.fromkeys(pairs)]


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
