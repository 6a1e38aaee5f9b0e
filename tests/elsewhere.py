"""Programs in a process of their own, such as one with other devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def found_by(*words, **environment):
    """What a program of Python prints last, in JSON."""
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
