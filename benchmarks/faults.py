"""Jobs through a system whose parts are killed, cut off and starved.

    python -m benchmarks.faults --broker redis --jobs 50 --workers 4 --rounds 3

Real processes: PostgreSQL of its own, Redis or RabbitMQ, API, reaper, workers, a TCP proxy before each server and a small disk.
At the end every accepted job has one final state and one result, every key and every object is there, and nothing else is.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.support.storm import brewing, weather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault happens")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        brewing(Path(folder), rabbitmq=chosen.broker == "rabbitmq", workers=chosen.workers, seed=chosen.seed) as storm,
    ):
        print(json.dumps({"broker": chosen.broker} | weather(storm, jobs=chosen.jobs, rounds=chosen.rounds, patience=3600)))


if __name__ == "__main__":
    main()
