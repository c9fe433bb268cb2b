"""Train runs of a sweep in a worker process, for ``lib.sweep.on_processes``.

Its input is a JSON object a line: first its setup, then one run after the other. It answers each
with a line. It ends when its input does, even in the middle of a run: no worker outlives the sweep,
and a run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import torch

from lib.dataset import BrainData, load_data
from lib.sweep.task import Task, require_same_code, train_task
from lib.utils import EditedError, KitError

Message = dict[str, Any]


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this
    torch.set_num_threads(1)
    incoming, outgoing = private_pipes()
    messages: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=receive, args=(incoming, messages), daemon=True).start()
    try:
        serve(messages, outgoing)
    except BaseException:  # custom code may raise anything; the parent reads the last line
        traceback.print_exc()
    os._exit(1)  # the thread still reads


def private_pipes() -> tuple[TextIO, TextIO]:
    """Return the pipes from and to the parent; custom code has neither as stdin or stdout."""
    incoming = os.fdopen(os.dup(0), encoding="utf-8")
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def receive(incoming: TextIO, messages: SimpleQueue[Message]) -> None:
    """Pass on the messages of the parent, and end this process after the last one."""
    try:
        for line in incoming:
            messages.put(json.loads(line))
    finally:
        os._exit(0)  # a run survives it at any moment, as it survives a kill


def serve(messages: SimpleQueue[Message], outgoing: TextIO) -> None:
    """Answer to the setup, then train one run for each further message."""

    def answer(message: Message) -> None:
        print(json.dumps(message), file=outgoing, flush=True)

    setup = messages.get()
    sys.path[:] = setup["path"]
    try:
        data = load_data(**setup["data"])
    except KitError as error:
        answer({"error": str(error)})
        return
    answer({"ready": True})
    while True:
        answer(train(messages.get(), data))


def train(message: Message, data: BrainData) -> Message:
    """Train the run of a message.

    Returns:
        Why the whole sweep must stop: ``edited``, the code is not what was loaded, or ``error``.
        Empty if the run has ended, even if it has failed: its folder says so.
    """
    task = Task.from_json(message)
    try:
        require_same_code(task, data)
        train_task(task, data, Path(message["out"]))
    except EditedError as error:
        return {"edited": str(error)}
    except KitError as error:
        return {"error": str(error)}
    return {}


if __name__ == "__main__":
    main()
