import os
import subprocess
import sys

import pytest
import torch

from tests.support.places import PROJECT


def start(settings: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """What a worker says that does not come up."""
    command = [sys.executable, "-m", "celery", "--app", "worker.app", "worker", "--concurrency", "1", *options]
    return subprocess.run(
        command, cwd=PROJECT, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="this machine has one GPU")
def test_a_worker_that_was_promised_a_gpu_does_not_start_without_it(tmp_path, redis_url):
    done = start({"AIAO_DATA_DIR": str(tmp_path), "AIAO_BROKER_URL": redis_url, "AIAO_GPU": "true"})
    assert done.returncode == 1
    assert f"AIAO_GPU asks for one GPU, and torch sees {torch.cuda.device_count()} of them" in done.stderr
    assert "CUDA_VISIBLE_DEVICES" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_does_not_listen_where_nobody_rings(tmp_path, redis_url):
    settings = {"AIAO_DATA_DIR": str(tmp_path), "AIAO_BROKER_URL": redis_url, "AIAO_QUEUES": "cpu:8GiB gpu:22GiB"}
    done = start(settings, "--queues", "aiao.gup")
    assert done.returncode != 0
    assert "aiao.gup" in done.stderr
