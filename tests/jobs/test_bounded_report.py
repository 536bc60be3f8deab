"""Reports that a job keeps, of bundles that hold too much."""

from __future__ import annotations

from amistream.jobs.bounded_report import LONGEST_TEXT, MOST_DIFFERENCES, bounded
from amistream.reports import Access, Content, Difference, Digests, Report, Signature

WHOLE = Report(
    manifest="s3://bucket/image.manifest.xml",
    deep=True,
    bundler="ec2-ami-tools 1.5 3",
    kind="machine",
    architecture="x86_64",
    image_name="image",
    image_size=10,
    bundled_size=20,
    parts=1,
    digests=Digests(compared=1, composite=0, unkept=0),
    signature=Signature.RIGHT,
    access=Access.GRANTED,
    content=Content(name="image", size=10, data_size=10, sparse=False, archive_sha1="00" * 20),
    differences=(),
    notes=("the manifest has no signature",),
    elapsed_s=0.5,
)
LONG = "x" * (4 << 20)


def test_a_usual_report() -> None:
    """A report of usual size stays as it is."""
    assert bounded(WHOLE) == WHOLE


def test_differences_are_counted() -> None:
    """The first differences are listed, and a note counts the others."""
    missing = tuple(
        Difference(what="part.missing", part=f"p.{number}", message="it is missing") for number in range(7000)
    )
    report = bounded(WHOLE.model_copy(update={"differences": missing}))
    assert report.differences == missing[:MOST_DIFFERENCES]
    assert report.notes[-1].startswith(f"{7000 - MOST_DIFFERENCES} more differences are not listed")


def test_texts_of_a_hostile_bundle_are_cut() -> None:
    """The report has some KiB, whatever texts manifest and archive hold."""
    assert WHOLE.content is not None
    texts = dict.fromkeys(("bundler", "kind", "architecture"), LONG)
    hostile = Difference(what="content.name", part="p" * 255, expected=LONG, found=LONG, message=LONG)
    changed = {
        **texts,
        "content": WHOLE.content.model_copy(update={"name": LONG}),
        "differences": (hostile,) * 7000,
        "notes": (LONG,),
    }
    report = bounded(WHOLE.model_copy(update=changed))
    assert len(report.model_dump_json()) < (MOST_DIFFERENCES + 10) * 4 * LONGEST_TEXT
