"""All benchmarks, and the tables of what they found.

``python -m experiments.peers [name ...]`` runs all or those named, one process each, and writes
the tables; ``table`` alone writes the tables from the results that are there.
"""

import os
import subprocess
import sys

from experiments.peers import table


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all."""
    if unknown := set(names) - {*table.BENCHMARKS, "table"}:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(table.BENCHMARKS)}")
    for name in names or table.BENCHMARKS:
        if name != "table":
            # implicit spreads over threads of its own and asks for a BLAS of one.
            one = {"OPENBLAS_NUM_THREADS": "1"} if name == "factorize" else {}
            command = [sys.executable, "-m", f"experiments.peers.{name}"]
            subprocess.run(command, env=os.environ | one, check=True)
    table.write()


if __name__ == "__main__":
    main(sys.argv[1:])
