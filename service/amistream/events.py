"""The documents of the socket API, as JSON: a job with its states, its progress and its end; errors; the daemon."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from amistream.reports import Migrated, Report
from amistream.states import TRANSITIONS as TRANSITIONS  # noqa: PLC0414 - these documents include them
from amistream.states import JobKind as JobKind  # noqa: PLC0414
from amistream.states import State as State  # noqa: PLC0414
from amistream.values import LeftOut, as_utf8


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class StageProgress(_Model):
    """One stage of the data path so far."""

    name: str
    bytes_in: int = Field(description="bytes that entered the stage")
    bytes_out: int = Field(description="bytes that left it")
    busy_s: float = Field(description="seconds of CPU, of reading, or of uploads, summed over its threads or uploads")
    waiting_s: float = Field(description="seconds that work waited for it because it was busy")
    busy_share: float = Field(0.0, description="share of the time so far that it was busy, 0 to 1, over all its lanes")
    lanes: int = Field(1, description="threads, or uploads, that work for it at once at most")


class Progress(_Model):
    """The whole data path so far. Holes of the volume count neither for shares nor for rates."""

    bytes_total: int = Field(description="size of the volume; of a verification or a migration, of all parts")
    bytes_done: int = Field(description="bytes of them that were read, copied, or looked up, so far")
    stored_share: float = Field(
        0.0,
        description="share of the volume's data, 0 to 1, that is stored, parts in progress included; of a bundle, data "
        "that is read and not on its way yet counts a fifth",
    )
    parts_made: int = 0
    parts_stored: int = 0
    blocks_made: int = Field(0, description="blocks of a conversion that were read")
    blocks_stored: int = Field(0, description="blocks of a conversion that are stored, or are zeros")
    bytes_stored: int
    bytes_in_flight: int = Field(0, description="bytes of the parts or blocks that are being stored")
    elapsed_s: float
    rate: float = Field(description="bytes of the volume's data stored, or read before the first part, per second")
    eta_s: float | None = Field(description="seconds left, or null when not known yet")
    bottleneck: str | None = Field(description="the stage that limits the speed now, or null in the first seconds")
    advice: str = Field("", description="which knob to turn to go faster")
    compression: dict[str, int] = Field(
        default_factory=dict, description="bytes so far by what was made of them: zeros, stored, level 1 ..."
    )
    stages: tuple[StageProgress, ...]


class ErrorBody(_Model):
    """The reason why a job or a request failed, what to do, and which input is at fault."""

    code: str
    message: str
    hint: str = ""
    field: str = ""
    request_id: str = Field("", description="AWS's id of the request that failed, which its support asks for")


class ErrorResponse(_Model):
    """The body of every error response."""

    error: ErrorBody


class PlaceResult(_Model):
    """The end of one destination."""

    destination: str
    manifest: str = Field(description="s3://bucket/key or path of the manifest; empty when it failed")
    region: str | None = None
    image_id: str | None = None
    image_name: str | None = None
    error: ErrorBody | None = Field(None, description="why it failed, or null when it is done")


class BundleResult(_Model):
    """The result of a finished bundle job. With several destinations `manifest` to `region` are the first one's."""

    manifest: str = Field(description="s3://bucket/key or path of the manifest")
    image_id: str | None = Field(description="the AMI's id, or null when it was not registered")
    image_name: str | None
    region: str | None
    places: tuple[PlaceResult, ...] = Field((), description="each destination's end, in the request's order")
    image_size: int = Field(description="bytes of the volume")
    left_out: LeftOut | None = Field(
        None,
        description="bytes of the volume that are not read and come back as zeros: free blocks of file systems, blocks "
        "that were preallocated and never written, inode tables that were never used, and holes outside of those; null "
        "for a job that an older version began",
    )
    bundled_size: int = Field(description="bytes of all parts")
    parts: int
    digest: str = Field(description="SHA-1 of the tar archive, hex: image/digest of the manifest")
    elapsed_s: float
    bottleneck: str | None = Field(
        None, description="the stage that limited the job as a whole, or null for one of a few seconds"
    )
    advice: str = Field("", description="which knob to turn to go faster")
    compression: dict[str, int] = Field(
        default_factory=dict, description="bytes by what was made of them: zeros, stored, level 1 ..."
    )
    cpu_s: float = Field(description="CPU seconds of the whole process while the job ran")
    stages: tuple[StageProgress, ...]


class ConversionResult(_Model):
    """The result of a finished conversion."""

    snapshot_id: str
    region: str
    image_id: str | None = Field(description="the AMI's id, or null when it was not registered")
    image_name: str | None
    image_size: int = Field(description="bytes of the image")
    volume_size: int = Field(description="bytes of a volume made of the snapshot")
    left_out: LeftOut | None = Field(
        None, description="bytes of the volume that are not read and come back as zeros; null for a bundle as source"
    )
    blocks: int = Field(description="blocks of 512 KiB in the snapshot; all others are zeros")
    blocks_put: int = Field(description="blocks that this run sent; an earlier run sent the rest")
    blocks_read: int = Field(description="blocks that were read, those of zeros included")
    checksum: str = Field(
        description="SHA-256 over the SHA-256 of all blocks in order, hex: that of the snapshot; empty if another host "
        "had completed it"
    )
    elapsed_s: float
    cpu_s: float = Field(description="CPU seconds of the whole process while the job ran")
    bottleneck: str | None = Field(
        None, description="the stage that limited the job as a whole, or null for one of a few seconds"
    )
    advice: str = Field("", description="which knob to turn to go faster")
    stages: tuple[StageProgress, ...]


JobResult: TypeAlias = BundleResult | ConversionResult | Report | Migrated
"""The result of a job of any kind."""


class JobView(_Model):
    """A job as the API shows it."""

    id: str
    kind: JobKind = JobKind.BUNDLE
    state: State
    source: str
    destinations: tuple[str, ...]
    label: str = Field("", description="text of the one who submitted it")
    user: int | None = Field(None, description="id of the user who submitted it, or null for a job of a queue")
    name: str = Field("", description="name of a job of a queue, the same on all hosts")
    place: int | None = Field(None, description="place in the queue of a job that waits; 1 is the next to begin")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Progress | None
    notices: tuple[Annotated[str, AfterValidator(as_utf8)], ...] = Field(
        description="things worth knowing that did not stop the job"
    )
    result: JobResult | None = Field(
        description="the result of a job that is done; of a verification that found differences, its report"
    )
    error: ErrorBody | None
    resumable: bool = Field(
        False,
        description="it ended unfinished and kept its stored parts or blocks: resume it, or cancel it to remove them",
    )
    kept_parts: int = Field(0, description="parts that an unfinished job has sent, or was about to send, when it ended")
    kept_blocks: int = Field(0, description="blocks that an unfinished conversion had stored when it ended")
    looks_again_at: datetime | None = Field(
        None,
        description="until then an unanswered request may still make something of a job that was removed; the daemon "
        "looks again then, and ends the job for good",
    )


class JobList(_Model):
    """Jobs, oldest first."""

    jobs: tuple[JobView, ...]


class LogLine(_Model):
    """One line of the daemon's log about a job."""

    at: datetime
    level: Literal["info", "warning", "error", "critical"]
    event: str = Field(description="stable name, such as job.started")
    fields: dict[str, Any] = Field(description="its values by name")


class JobLines(_Model):
    """The newest lines about a job, the oldest of them first."""

    id: str
    lines: tuple[LogLine, ...]


class Event(_Model):
    """One server-sent event. Each carries the whole job, so that a client may join at any time."""

    id: int
    type: Literal["state", "progress", "notice"]
    job: JobView


class QueueHealth(_Model):
    """The queue from which the daemon takes jobs, and the outlet of their results."""

    url: str
    status: Literal["ok", "trouble", "stopping"] = Field(
        description="trouble: it cannot be received from, or jobs cannot be held, or results cannot be sent; running "
        "jobs continue as long as they can"
    )
    jobs: int = Field(description="jobs of the queue that run or wait here")
    places: int = Field(description="jobs that would be taken now")
    lease_s: float | None = Field(None, description="seconds until the first lease ends, or null without one")
    results_waiting: int = Field(description="results that are still to be sent")
    errors: tuple[ErrorBody, ...] = Field((), description="the present trouble")


class Health(_Model):
    """The daemon's state and its load."""

    status: Literal["ok", "stopping"] = Field(description="stopping: running jobs continue, new ones are refused")
    version: str
    jobs_running: int
    jobs_queued: int
    uptime_s: float
    notices: tuple[str, ...] = Field((), description="damage of the journal that was found at the start")
    queue: QueueHealth | None = Field(None, description="the queue of jobs, or null without one")
