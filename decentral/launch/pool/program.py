"""The workers of a simulated run: a process that has imported torch once, and forks them.

    python -P -m decentral.launch.pool.program PARENT DESCRIPTOR ...

Each descriptor is an open socket to the run, at which one worker answers until it is closed. Forking is safe for the
same reasons as in `launch.forkserver`. Who ends otherwise than with its socket is told of on stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import NoReturn

from decentral.launch.forkserver import preload, single_threaded
from decentral.lifetime import die_with_parent


def serve(descriptor: int) -> None:
    """One worker: a question, an answer, until nobody is there to ask."""
    from decentral.launch.pool.host import Host

    host = Host()
    with Connection(descriptor) as connection:
        while True:
            try:
                question = connection.recv_bytes()
                connection.send_bytes(host.answer(question))
            except (EOFError, ConnectionError):
                return


def become(descriptor: int, others: list[int], parent: int) -> NoReturn:
    """The worker at `descriptor`, in a process of its own."""
    code = 1
    try:
        die_with_parent(parent)
        for other in others:  # else nobody would hear that a sibling has ended
            os.close(other)
        serve(descriptor)
        code = 0
    except BaseException:  # noqa: BLE001  whatever ends a worker ends here, as it would at the top of a process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    parent, *descriptors = map(int, sys.argv[1:])
    die_with_parent(parent)
    preload(("decentral.launch.pool.host",))
    if not single_threaded():
        sys.exit("the pool's process has more than one thread: forking is not safe")
    own, numbers = os.getpid(), {}
    for number, descriptor in enumerate(descriptors):
        pid = os.fork()
        if pid == 0:
            become(descriptor, [other for other in descriptors[number:] if other != descriptor], own)
        numbers[pid] = number
        os.close(descriptor)
    while numbers:
        pid, status = os.wait()
        number, code = numbers.pop(pid), os.waitstatus_to_exitcode(status)
        if code:
            why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            print(f"worker {number} (process {pid}) {why}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
