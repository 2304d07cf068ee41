"""A warm worker: runs stages one after another in one process, so that imports and loaded models are reused.

Each stage runs, and ends, as under `python -m`. `python -m flows.engine.worker PARENT` reads jobs from stdin and writes
answers to stdout, as one JSON object per line.
"""

import io
import json
import os
import runpy
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from stages.runtime import exits
from stages.runtime.process import collect_rarely, die_with_parent

EVERY_SECONDS = 0.5


class Log(io.FileIO):
    """Standard output or error of the stages; what a full disk does not take is lost, and ends no stage."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the flow decides what it means
    die_with_parent(int(sys.argv[1]))
    collect_rarely()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    jobs = os.fdopen(os.dup(0), "r")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # keeps the output of stages out of the answers
    sys.stdout, sys.stderr = map(_text, (1, 2))

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    _set_up(answer)
    for line in jobs:
        job = json.loads(line)
        began = time.process_time()
        code = _run(job["words"], Path(job["log"]))
        ends = code != 0 and _unusable()
        answer(code=code, error=exits.last_error, cpu=time.process_time() - began, memory=_memory(), ends=ends)
        if ends:
            os._exit(code)  # at once: what is broken might not let Python end


def _text(number: int) -> io.TextIOWrapper:
    stream: Any = Log(number, "w", closefd=False)
    return io.TextIOWrapper(stream, "utf-8", "backslashreplace", write_through=True)


def _memory() -> int:
    """Bytes that torch has held on the GPU so far, at most."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_reserved()) if torch and torch.cuda.is_initialized() else 0


def _unusable() -> bool:
    """Whether the GPU no longer answers this process, which is then to run no further stage.

    After an illegal access or an error of its memory, every later call fails in the process that it happened in, and in
    no other.
    """
    torch = sys.modules.get("torch")
    if not torch or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _set_up(answer: Any) -> None:
    from stages.runtime import progress

    sent = 0.0

    def listen(what: str, done: int, total: int) -> None:
        nonlocal sent
        if time.monotonic() - sent > EVERY_SECONDS:
            sent = time.monotonic()
            answer(progress=[what, done, total])

    progress.listeners.append(listen)


def _run(words: list[str], log: Path) -> int:
    """Runs `python -m WORDS` with its output appended to the log; returns its exit code."""
    file = _opened(log)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    exits.last_error = ""
    sys.argv = list(words)
    sys.modules.pop(words[0], None)  # otherwise runpy warns that it has been imported already
    try:
        return exits.attempt(partial(_run_module, words[0]))  # also if it cannot be imported, to say how it ends
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _run_module(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _opened(log: Path) -> int:
    """Opens a log, which only this user may read, as it may contain prompts and paths; where none can be, nothing."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


if __name__ == "__main__":
    main()
