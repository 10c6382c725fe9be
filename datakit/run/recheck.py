"""Steps that were made before, read once before anything is built upon them.

A manifest knows how large its files are and what they hold. Sizes are looked at each time; the bytes here, once a
build that has something to make, as fast as the disk gives them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from datakit.manifest import intact
from datakit.run.progress import Sink
from datakit.store.steps import Steps


def drop_damaged(steps: Steps, sink: Sink) -> int:
    """Forget the shards of the plan whose files hold other bytes than were written; how many. They are made again.

    What was made from them since is as it was: a shard made again has the bytes that it had.
    """
    found = [
        (step, folder, manifest)
        for step in steps.plan.steps.values()
        if step.verb != "catalogs"
        for folder, manifest in steps.made(step)
    ]
    dropped = 0
    with ThreadPoolExecutor(os.cpu_count()) as readers:  # reading and hashing let go of the interpreter
        whole = readers.map(lambda shard: intact(shard[1], shard[2]), found)
        for (step, folder, manifest), good in zip(found, whole, strict=True):
            if not good:
                (folder / f"{manifest.shard:05d}.json").unlink(missing_ok=True)
                sink.event(
                    "note", text=f"shard {manifest.shard} of {step.name} is damaged on disk: made again"
                )
                dropped += 1
    return dropped
