"""A process that has imported torch and grpc once, and forks every node from there.

    python -P -m decentral.launch.forkserver [MODULE ...] < requests > replies

Requests and replies are JSON lines: {"fork": [script, *arguments], "log": path} gives {"pid": n}; a child that ends
gives {"exited": pid, "code": n}, negative for a signal. When the requests end, because the launcher closed them or
died, all children are ended. Forking is safe because nothing here has started a thread, opened a channel or touched a
GPU, which is checked before the first fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from decentral.lifetime import die_with_parent

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Of BLAS, in every node's environment: a recipe's `threads` are torch's own."""
USUAL = {
    "THP_MEM_ALLOC_ENABLE": "1",  # large gradients in huge pages: a third off the time of a step
    "GRPC_VERBOSITY": "ERROR",  # peers that come and go are no news
}
"""The same, unless the operator has said something else."""
GRACE = 5.0
"""Seconds between asking children to end and ending them."""


def preload(more: Sequence[str] = ()) -> None:
    """What every node needs, and `more`, imported once. One BLAS thread: a thread pool would not survive the fork."""
    os.environ.update(ONE_THREAD)
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)
    import torch

    import decentral.launch.assembly
    import decentral.wire.grpc_transport  # noqa: F401

    for name in more:
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector would otherwise write to every page that the children share


def single_threaded() -> bool:
    tasks = Path("/proc/self/task")
    return not tasks.exists() or len(list(tasks.iterdir())) == 1


def become(argv: list[str], log: str, server: int) -> NoReturn:
    """The child of process `server`: runs the script as `python SCRIPT ARGUMENTS` would, its output in `log`."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die_with_parent(server)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 256)
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001  whatever a script raises ends here, as it would at the top of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reply(message: dict[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return  # the launcher is gone; the end of the requests tells us next


def reap(children: set[int]) -> None:
    """Announces children that have ended."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.discard(pid)
            reply({"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def send(children: set[int], number: int) -> None:
    for pid in children:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def serve() -> None:
    server, children = os.getpid(), set[int]()
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    reply({"ready": os.getpid()})
    pending = b""
    while True:
        readable, _, _ = select.select([0, waking], [], [])
        if waking in readable:
            os.read(waking, 4096)
            reap(children)
        if 0 not in readable:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                become(request["fork"], request["log"], server)
            children.add(pid)
            reply({"pid": pid})
    send(children, signal.SIGTERM)
    ends = time.monotonic() + GRACE
    while children and time.monotonic() < ends:
        reap(children)
        time.sleep(0.02)
    send(children, signal.SIGKILL)


def main() -> None:
    preload(sys.argv[1:])
    if not single_threaded():
        sys.exit("the fork server has more than one thread: forking is not safe")
    serve()


if __name__ == "__main__":
    main()
