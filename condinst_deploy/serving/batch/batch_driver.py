"""The driver: it plans a run, and gives shards to workers. Here to one in its own process; `ray_driver` to many."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from condinst_deploy.contract.artifacts import check_model_file, model_kind
from condinst_deploy.errors import ConfigError, DataError, ImageError
from condinst_deploy.serving.batch.batch_options import BatchOptions
from condinst_deploy.serving.batch.inputs import BatchInput, open_input
from condinst_deploy.serving.batch.object_lock import LOCK_TIMES, LockTimes
from condinst_deploy.serving.batch.parquet_inputs import pyarrow
from condinst_deploy.serving.batch.parts import finished_parts
from condinst_deploy.serving.batch.reporting import Event, OnEvent
from condinst_deploy.serving.batch.run_manifest import RunManifest, claimed, run_manifest
from condinst_deploy.serving.batch.shard_worker import Job, OnImage, ShardWorker
from condinst_deploy.serving.batch.shards import Shard, shard_count, shards_of
from condinst_deploy.serving.batch.storage import OnWait, OutputFolder, output_folder
from condinst_deploy.shown_text import counted
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.support.remote_files import absolute, public_url


@dataclass(frozen=True, eq=False)
class Plan:
    """A run, and what of it is left to do."""

    job: Job
    manifest: RunManifest
    input: BatchInput
    out: OutputFolder
    finished: frozenset[int]  # indices of shards

    @property
    def images(self) -> int:
        """Images of the input."""
        return self.manifest.images

    @property
    def shards(self) -> int:
        """Shards of the input."""
        return shard_count(self.images, self.job.options.shard_size)

    @property
    def finished_images(self) -> int:
        """Return the number of images of finished shards; all shards but the last are equally long."""
        size, last = self.job.options.shard_size, self.shards - 1
        missing = self.shards * size - self.images if last in self.finished else 0
        return len(self.finished) * size - missing

    def pending(self) -> Iterator[Shard]:
        """The shards without a part, in order; the input is read again, and one shard is held at a time.

        Raises:
            DataError: the input has another number of images than before.
            ConfigError: another driver took over the output, because this one did not run for a time.
        """
        images = 0
        for shard in shards_of(self.input.spans(), self.job.options.shard_size):
            images += len(shard)
            if images > self.images:
                break
            if shard.index not in self.finished:
                self.out.check_locked()
                yield shard
        if images != self.images:
            raise DataError(
                f"{public_url(self.job.options.input)} changed during the run: it had {counted(self.images, 'image')};"
                " name another --out, and run again when nothing writes into it"
            )


@contextmanager
def planned(
    options: BatchOptions, on_wait: OnWait = lambda line: None, lock_times: LockTimes = LOCK_TIMES
) -> Iterator[Plan]:
    """Look at the input and at what an earlier run left, and keep other drivers away from the output.

    Args:
        options: of the run.
        on_wait: called with a line before a wait for another driver that may be dead.
        lock_times: of the lock of an output behind a URL.

    Raises:
        CondInstError: model, input or output cannot be used, or the output belongs to another run.
    """
    model_kind(options.model)  # by its name, before a folder is made
    check_model_file(options.model)
    if options.format == "parquet":
        pyarrow()
    if absolute(options.out).rstrip("/") == absolute(options.input).rstrip("/"):
        raise ConfigError(f"--out {public_url(options.out)} is the input; name another folder")
    out, source = output_folder(options.out), open_input(options.input, options.out)
    if options.column is not None and source.kind != "parquet":
        raise ConfigError(f"--column is for Parquet files, and {public_url(options.input)} is none; leave it out")
    fingerprint = source.fingerprint()
    if fingerprint.images == 0:
        raise ImageError(f"{public_url(options.input)} names no images")
    model_sha256 = sha256_of(options.model)
    manifest = run_manifest(options, model_sha256, source.kind, fingerprint)
    with out.locked(on_wait, lock_times), claimed(out, manifest) as run_sha256:
        job = Job(options, model_sha256, run_sha256)
        finished = finished_parts(out, options.format, shard_count(manifest.images, options.shard_size))
        yield Plan(job, manifest, source, out, finished)


def run_here(plan: Plan, on_event: OnEvent, on_image: OnImage = lambda done: None) -> None:
    """Run all pending shards in this process.

    Args:
        plan: the run.
        on_event: called when a shard begins and ends.
        on_image: called with the number of images that are done of the shard under way; with 0 behind its end.

    Raises:
        CondInstError: the model, the input or the output cannot be used.
    """
    shards = plan.pending()
    first = next(shards, None)
    if first is None:
        return  # without a wait for the model
    with ShardWorker(plan.job) as worker:
        on_event(Event("ready", worker.name, reason=worker.note))
        for shard in chain((first,), shards):
            on_event(Event("start", worker.name, shard.index))
            report = worker.run(shard, on_image)
            on_event(Event("done", worker.name, shard.index, report=report))
            on_image(0)
