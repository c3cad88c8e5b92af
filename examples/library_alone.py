"""Embed a watermark and test models on this machine, without any service.

python examples/library_alone.py my-pipeline/ marked/
"""

import argparse
import json
from pathlib import Path

import aiao


def main() -> None:
    parser = argparse.ArgumentParser(description="Mark a model, and test the marked and the unmarked one.")
    parser.add_argument("model", type=Path, help="diffusers pipeline folder")
    parser.add_argument("marked", type=Path, help="new folder for the marked model")
    parser.add_argument("--images", type=Path, help="folder of images to train on; without it the model draws its own")
    parser.add_argument("--options", type=json.loads, default={}, help='embedding options as JSON, such as {"steps": 400}')
    arguments = parser.parse_args()
    folder, marked = arguments.model, arguments.marked

    model = aiao.load(folder)
    key = aiao.embed(model, images=arguments.images, **arguments.options)
    key_file = key.save(marked.with_suffix(".key.json"))  # with it anybody can make a model that matches: keep it secret
    model.save(marked)
    print(f"Publish {marked}, keep {key_file}. Commitment, which you may publish too: {key.commitment}")

    for suspect in (marked, folder):
        report = aiao.verify(suspect, key, source=folder)
        page = report.save(marked.with_name(f"{suspect.name}-report.html"))
        print(f"{suspect}: {report.verdict}, log10 p {report.log10_p:.1f}; see {page}")


if __name__ == "__main__":
    main()
