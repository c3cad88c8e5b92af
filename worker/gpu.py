"""A worker that was given a GPU must not quietly compute without it, nor share it with the next one."""

import subprocess
import sys

LOOK = "import torch; print(torch.cuda.device_count(), *([torch.cuda.get_device_properties(0)] * torch.cuda.is_available()))"


def only_gpu() -> None:
    """End this worker unless torch sees exactly one GPU.

    Torch is asked in a process of its own: this one forks those that run the tasks, and CUDA does not survive a fork.
    """
    answer = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)  # noqa: S603
    count, _, device = answer.stdout.strip().partition(" ")
    if count == "1":
        print(f"this worker computes on {device}", file=sys.stderr)  # noqa: T201  # before there is a log
        return
    why = f"torch sees {count} of them" if count else f"torch does not start: {answer.stderr.strip()[-500:]}"
    raise SystemExit(
        f"AIAO_GPU asks for one GPU, and {why}; start a worker for each GPU, with its number in CUDA_VISIBLE_DEVICES, and look "
        "whether nvidia-smi shows it and torch is built for it"
    )
