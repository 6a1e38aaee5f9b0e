r"""Jobs of several processes that outlive the death of any of them.

``python -m lintoolkit.launch --processes 4 -- python train.py`` starts four processes here and
starts all again when one dies. On a cluster the same runs on every host, with the address of
the first and the number of the first process here: ``--address 10.0.0.1:7000 --processes 8
--first 4 --here 4``. Nothing listens but that address, on the host of process 0. The job itself
is JAX's: `jax.distributed`, meshes and shardings.
"""

import argparse
import faulthandler
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import jax
import numpy as np

from lintoolkit import _checks
from lintoolkit.train import PREEMPTED

__all__ = [
    "member", "supervise",
]  # fmt: skip
__dir__ = lambda: __all__

JOB = "LINTOOLKIT_JOB"  # address, processes and the own number, for `member`
FAILED = 71  # exit status after an exception, sysexits.h's "system error"


def member(*, limit: float, heartbeat: int = 10) -> AbstractContextManager[Callable[[], None]]:
    r"""Be one process of a job: join the others, and leave at once where that fails.

    The body of the ``with`` is the program; `supervise` says by the environment who else there
    is, and alone a process is a job of one. The body is to call what it is given at every step:
    the process ends itself when seconds since the last call = ``limit``, for one that lives but
    stands still would hold up all others for good. It ends at once, and does not wait for the
    others, when it raises, and when the heartbeats of a peer stop.

    Args:
        limit: Seconds a step may take, its compilation too, before the process ends itself.
        heartbeat: Seconds without a sign of a peer until it is taken for dead.

    Returns:
        A context, which gives a function of nothing that says: still at it.

    Raises:
        ValueError: If ``limit`` or ``heartbeat`` is not above 0, or ``limit`` beyond what a
            timer takes, some 292 years.

    Cost:
        Joining takes as long as the slowest process; a call, microseconds.

    Examples:
        >>> with member(limit=60.0) as alive:
        ...     for step in range(3):
        ...         alive()  # at every step, such as where batches are drawn

    References:
        Barham et al., Pathways: Asynchronous Distributed Dataflow for ML (2022), section 2.
    """
    _checks.number("member", limit=limit)
    if not 0 < limit < threading.TIMEOUT_MAX:
        raise ValueError(
            f"member: limit must be above 0 seconds and below {threading.TIMEOUT_MAX:.0f}, got "
            f"{limit!r}."
        )
    _checks.positive("member", heartbeat=heartbeat)
    return _member(limit, heartbeat)


@contextmanager
def _member(limit: float, heartbeat: int) -> Iterator[Callable[[], None]]:
    job = os.environ.get(JOB)
    alive = lambda: faulthandler.dump_traceback_later(limit, exit=True, file=2)
    alive()
    try:
        if job:
            address, processes, process = job.split()
            # One process too: it adds up between devices by the same rules, to the same bits.
            jax.distributed.initialize(
                address,
                int(processes),
                int(process),
                cluster_detection_method="deactivate",
                coordinator_bind_address=address,  # the default listens on every interface
                initialization_timeout=6 * heartbeat,
                heartbeat_timeout_seconds=heartbeat,
                shutdown_timeout_seconds=heartbeat,
            )
        yield alive
        if job:
            jax.distributed.shutdown()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(FAILED)  # an ordinary exit waits for peers that may wait for this one
    finally:
        faulthandler.cancel_dump_traceback_later()


def supervise(
    command: Sequence[str],
    *,
    processes: int,
    first: int = 0,
    here: int | None = None,
    address: str = "127.0.0.1:0",
    restarts: int = 10,
    grace: float = 30.0,
) -> int:
    r"""Run a command as several processes of one job, and start all again when one fails.

    Each runs its body under `member`, in which process k of n knows n, k = ``first``,
    ``first`` + 1, … and where to meet. When one fails the rest are killed, for they can only
    wait for it, and all are started anew, to go on from their newest checkpoint:
    `lintoolkit.train.fit_in_chunks` does. Where they were told to leave, exit status 75, the
    others are given time to save. On a cluster every host runs this and notices by itself.

    Args:
        command: What to run, program first.
        processes: In the whole job.
        first: The number of the first that runs here.
        here: How many run here; all from ``first`` on if None.
        address: Of the host of process 0, with a port; port 0 takes one that is free, which
            does where all processes run here.
        restarts: How often to start again.
        grace: Seconds from the first exit status 75 until the others are killed.

    Returns:
        0 when all have ended well; else the last failure's status, after the last restart or
        when this process itself has been sent SIGTERM, which it passes on.

    Raises:
        ValueError: If ``command`` is empty, ``processes``, ``first`` or ``here`` do not fit
            together, ``address`` has no port, one of 0 cannot be taken there or known to the
            other hosts, or ``restarts`` or ``grace`` is below 0.

    Cost:
        A look at every process 20 times a second.

    Examples:
        >>> supervise(["true"], processes=2)
        0
        >>> supervise(["false"], processes=2, restarts=0)
        1

    References:
        Barham et al., Pathways: Asynchronous Distributed Dataflow for ML (2022), section 2.
    """
    if not len(command):
        raise ValueError("supervise: command must name a program, got nothing.")
    for name, value in (("first", first), ("restarts", restarts)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(
                f"supervise: {name} must be a whole number of at least 0, got {value!r}."
            )
    _checks.number("supervise", grace=grace)
    if not grace >= 0:
        raise ValueError(f"supervise: grace must be at least 0 seconds, got {grace!r}.")
    _checks.positive("supervise", processes=processes)
    here = processes - first if here is None else here
    _checks.positive("supervise", here=here)
    if not 0 <= first <= processes - here:
        raise ValueError(
            f"supervise: first must be a number of the {processes} processes with {here - 1} "
            f"after it, got {first}."
        )
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f"supervise: address must be HOST:PORT, such as '10.0.0.1:7000', got {address!r}."
        )
    if here < processes and port == "0":
        raise ValueError(
            f"supervise: address must name a port that all hosts know, got {address!r}."
        )
    told = threading.Event()
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        for left in range(restarts, -1, -1):
            meeting = address if port != "0" else f"{host}:{_free_port(host)}"
            jobs = [f"{meeting} {processes} {first + i}" for i in range(here)]
            status = _run_once(command, jobs, told, grace)
            if status == 0 or told.is_set():
                break
            next_is = f"starting all again, {left - 1} restarts left" if left else "giving up"
            _say(f"all processes are gone, the first with status {status}: {next_is}")
        return status
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _run_once(
    command: Sequence[str], jobs: list[str], told: threading.Event, grace: float
) -> int:
    """Run all until all have ended; the first failure's status, or 0."""
    workers = [subprocess.Popen(command, env=os.environ | {JOB: job}) for job in jobs]
    status, passed_on, deadline = 0, False, float("inf")
    try:
        while None in [worker.poll() for worker in workers]:
            if told.is_set() and not passed_on:
                passed_on, deadline = True, time.monotonic() + grace
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
            failed = [worker.returncode for worker in workers if worker.returncode]
            if failed and not status:
                status = failed[0]
                deadline = time.monotonic() + (grace if status == PREEMPTED else 0)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return status or next((w.returncode for w in workers if w.returncode), 0)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()


def _free_port(host: str) -> int:
    try:
        family, *_, where = socket.getaddrinfo(host.strip("[]"), 0)[0]
        with socket.socket(family) as free:
            free.bind(where)
            return free.getsockname()[1]
    except OSError as error:
        raise ValueError(
            f"supervise: address must be this machine's for port 0, got host {host!r}: "
            f"{error.strerror}."
        ) from None


def _say(what: str) -> None:
    sys.stderr.write(f"launch: {what}\n")
    sys.stderr.flush()


def _main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m lintoolkit.launch", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="in the whole job")
    parser.add_argument("--first", type=int, default=0, help="number of the first one here")
    parser.add_argument("--here", type=int, help="how many run here; default all")
    parser.add_argument("--address", default="127.0.0.1:0", help="of process 0, HOST:PORT")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("command", nargs="+", help="after --")
    options = vars(parser.parse_args())
    try:
        return supervise(options.pop("command"), **options)
    except ValueError as error:
        _say(str(error))
    except OSError as error:  # of the program, or of the address
        _say(f"{error.strerror}: {error.filename or options['address']}")
    return 2


if __name__ == "__main__":
    sys.exit(_main())
