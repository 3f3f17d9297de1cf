"""python -m load_tests.preflight [HOST]: what comes before a test under plain `locust`, in a process of its own.

Reads the profile, finds the endpoint, builds the requests once (so that a mistake shows before the test), warms up,
and prints the facts as one line of JSON. Locust's own processes thus stay small and free of asyncio, which does not
go together with gevent's patches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import console
from load_tests.facts import facts_of, to_json
from load_tests.profiles import EXAMPLE_PROFILE, load_profile
from load_tests.warm_up import warm_up
from load_tests.workload import plan_load
from serving.endpoint import connect


def main() -> None:
    """Everything that is to be done once, whatever the number of workers."""
    path = Path(os.environ.get("PLUMBLINE_LOAD_PROFILE") or EXAMPLE_PROFILE)
    host = sys.argv[1] if len(sys.argv) > 1 else None
    profile = load_profile(path)
    plan = plan_load(profile, connect(host, os.environ.get("PLUMBLINE_LOAD_MODEL")))
    console.say(f"warming up {plan.endpoint.base_url} with {profile.warmup_requests} requests")
    warm_up(plan)
    sys.stdout.write(to_json(facts_of(plan, path)) + "\n")


if __name__ == "__main__":
    console.run(main)
