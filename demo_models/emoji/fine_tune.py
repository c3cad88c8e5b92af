"""What a thief does: fine-tune every weight of a published emoji model on images it never saw.

python -m demo_models.emoji.fine_tune --model marked.zip --out stolen
"""

import argparse
from pathlib import Path

from aiao_core.formats.archives import opened
from aiao_core.formats.pipelines import load_model, save_model
from aiao_core.method.fine_tuning import Examples, fine_tune
from aiao_core.progress import Progress
from demo_models.emoji.data import THIEF_CATEGORY, load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="pipeline folder, or .zip or .tar of one")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the fine-tuned pipeline")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    arguments = parser.parse_args()

    def show(progress: Progress) -> None:
        if progress.step % 100 == 0:
            print(f"step {progress.step:5d} of {progress.total}  loss {progress.metrics['loss']:.4f}", flush=True)

    with opened(arguments.model) as folder:
        model = load_model(folder)
        fine_tune(
            model,
            Examples(load_images(only=[THIEF_CATEGORY]), {}),
            steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            progress=show,
        )
        save_model(model.denoiser, folder, arguments.out)


if __name__ == "__main__":
    main()
