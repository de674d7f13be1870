"""Runs ``minifcn`` commands in processes of their own that die at chosen places: for test_kill.py.

Importing takes longer than such a small run, so it is done once: each command is a fork of this
process. A line of JSON on standard input asks for one: its arguments, where it is to die (see
`PLACES`), and limits. The answers are two lines: the process number, and then how it ended.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import minifcn.about
import minifcn.cli
import minifcn.gpu_memory
import minifcn.prepare
import minifcn.progress
import minifcn.start
import minifcn.train
from minifcn import files, run_log, snapshot
from minifcn.weights import writing


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def before_each(owner, name, count, then=die):
    """Call ``then``, with the same arguments, before the call number ``count`` of a function."""
    original, left = getattr(owner, name), count

    def counting(*arguments, **options):
        nonlocal left
        left -= 1
        if not left:
            then(*arguments)
        return original(*arguments, **options)

    setattr(owner, name, counting)


def before_the_write(count):
    """Die before the temporary file of a checkpoint or of weights is there."""
    before_each(writing, "replacing", count)


def in_the_write(count):
    """Die with a part of the numbers written."""
    original, left = writing.in_order, 5 * count

    def dying(array):
        nonlocal left
        for piece in original(array):
            left -= 1
            if not left:
                os.sync()  # what was written is in the file
                die()
            yield piece

    writing.in_order = dying


def before_the_rename(count):
    """Die with the whole file written under its temporary name."""
    before_each(files, "to_disk", 2 * count - 1)


def after_the_rename(count):
    """Die before the older checkpoints are removed, and before the best weights are written."""
    before_each(files, "to_disk", 2 * count)


def while_removing(count):
    """Die when some of the older checkpoints are removed."""
    original = snapshot.Snapshots._remove_others

    def dying(self, latest):
        before_each(os, "unlink", 1)
        original(self, latest)

    def armed(*_):
        snapshot.Snapshots._remove_others = dying

    before_each(snapshot.Snapshots, "_remove_others", count, armed)


def in_a_line_of_the_log(count):
    """Die with half a line written."""

    def dying(log):
        log.file.write('{"step": 1')
        log.file.flush()
        die()

    before_each(run_log.Log, "_write_first", count, dying)


PLACES = {
    place.__name__: place
    for place in (
        before_the_write,
        in_the_write,
        before_the_rename,
        after_the_rename,
        while_removing,
        in_a_line_of_the_log,
    )
}


def main():
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if not process:
            work(asked)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def work(asked):
    """Be the process that runs the command."""
    code = 99
    try:
        with Path(asked["told"]).open("a") as told:
            os.dup2(told.fileno(), 1)
            os.dup2(told.fileno(), 2)
        if place := asked.get("place"):
            PLACES[place](asked["count"])
        if limit := asked.get("largest_file"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        minifcn.cli.main(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
