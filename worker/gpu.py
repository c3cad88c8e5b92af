"""A worker that was given a GPU must not quietly compute without it, nor share one with the next worker."""

import subprocess
import sys

LOOK = "import torch; print(*map(torch.cuda.get_device_properties, range(torch.cuda.device_count())), sep='\\n')"


def only_gpu() -> None:
    """End this worker unless torch sees exactly one GPU.

    Torch is asked in a process of its own: this one forks those that run the tasks, and CUDA does not survive a fork.
    """
    answer = subprocess.run([sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, check=False)  # noqa: S603
    devices = answer.stdout.split("\n")[:-1] if answer.stdout.strip() else []
    if len(devices) == 1:
        print(f"this worker computes on {devices[0]}", file=sys.stderr)  # noqa: T201  # before there is a log
        return
    why = f"torch does not start: {answer.stderr[-500:]}" if answer.returncode else f"torch sees {len(devices)} of them"
    raise SystemExit(
        f"AIAO_GPU asks for one GPU, and {why}; start a worker for each GPU, with its number in CUDA_VISIBLE_DEVICES, and look "
        "whether nvidia-smi shows it and torch is built for it"
    )
