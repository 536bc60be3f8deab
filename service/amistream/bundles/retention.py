"""Decides which bundles of a folder are old enough to go, and deletes them: `amistream prune`.

`judge` decides from a listing alone: the newest whole bundles of each group stay, and everything in doubt does. Every
deletion then checks its bundle once more, as `amistream delete` does, and refuses one that has changed. Parts without
a manifest are never touched: a job may be writing them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from amistream.bundles.place import BucketPlace
from amistream.bundles.remove import Removal
from amistream.bundles.results import Inventory, JudgedBundle, ListedBundle, Pruned, PruneFailure, Removed
from amistream.errors import AmistreamError, RefusedError
from amistream.events import ErrorBody

_NAMED = 5
"""Folders that a notice names."""
_DATE = re.compile(
    r"[0-9]{4}[-_.]?[0-9]{2}[-_.]?[0-9]{2}([-_.T]?[0-9]{2}[-_.:]?[0-9]{2}([-_.:]?[0-9]{2})?Z?(-[0-9a-f]{6})?)?"
)
"""A date as part of a name, perhaps with the time of day, as in the id of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The rule. Bundles that were made after `made_before` stay: a job may still register an AMI of one.

    `by_folder`: each folder directly below the address is a group of its own. `asks_ec2`: a bundle whose AMIs are
    unknown stays; without, AMIs are ignored.
    """

    keep_last: int
    made_before: datetime
    by_folder: bool = False
    asks_ec2: bool = True


def judge(inventory: Inventory, rule: Retention) -> tuple[JudgedBundle, ...]:
    """Decide on each bundle of the listing; groups in order, the newest bundle of each first."""
    groups: dict[str, list[ListedBundle]] = defaultdict(list)
    for bundle in inventory.bundles:
        inside = bundle.manifest.removeprefix(f"{inventory.location}/")
        groups[inside.partition("/")[0] if rule.by_folder and "/" in inside else ""].append(bundle)
    judged = []
    for group, bundles in sorted(groups.items()):
        whole = 0
        # Two of the same second have an order all the same.
        for bundle in sorted(bundles, key=lambda each: (each.made_at, each.manifest), reverse=True):
            whole += not bundle.problem
            reason = _reason_to_keep(bundle, whole, rule)
            judged.append(
                JudgedBundle(
                    manifest=bundle.manifest,
                    group=group,
                    made_at=bundle.made_at,
                    stored=bundle.stored,
                    images=bundle.images,
                    deletes=not reason,
                    reason=reason,
                )
            )
    return tuple(judged)


def _reason_to_keep(bundle: ListedBundle, whole: int, rule: Retention) -> str:
    """The reason why the bundle stays, or ''. `whole` counts whole bundles of its group up to this one."""
    if bundle.problem:
        return bundle.problem
    if whole <= rule.keep_last:
        return f"one of the newest {rule.keep_last}" if rule.keep_last > 1 else "the newest"
    if bundle.made_at >= rule.made_before:
        return "not old enough"
    if rule.asks_ec2 and bundle.images is None:
        return "EC2 does not report whether an AMI uses it"
    return ""


def doubt_about_groups(location: str, judged: Sequence[JudgedBundle], rule: Retention) -> str:
    """The notice for one group of bundles whose folders look like those of several hosts, or ''.

    Folders that differ by a date only are those of one host.
    """
    folders: dict[str, list[JudgedBundle]] = defaultdict(list)
    for bundle in judged:
        folder, slash, _ = bundle.manifest.removeprefix(f"{location}/").partition("/")
        if slash:
            folders[folder].append(bundle)
    hosts = {_DATE.sub("", folder).strip("-_. ") for folder in folders} - {""}
    if rule.by_folder or len(hosts) < 2:  # noqa: PLR2004 - one is no doubt
        return ""
    names = sorted(folders)
    shown = f"{', '.join(names[:_NAMED])}{', ...' if names[_NAMED:] else ''}"
    emptied = sum(all(bundle.deletes for bundle in bundles) for bundles in folders.values())
    lose = f", and {emptied} of them would have none left" if emptied else ""
    return (
        f"the bundles of {len(folders)} folders ({shown}) count as one group: the newest {rule.keep_last} of all "
        f"together stay{lose}; if each is a host's, keep {rule.keep_last} of each with --by-folder"
    )


def still_agreed(now: Sequence[JudgedBundle], before: Sequence[JudgedBundle]) -> tuple[JudgedBundle, ...]:
    """The verdicts of a later listing. Only bundles on which nothing has changed since `before` are deleted."""
    agreed = {bundle for bundle in before if bundle.deletes}
    changed = {"deletes": False, "reason": "changed during the question"}
    return tuple(each.model_copy(update=changed) if each.deletes and each not in agreed else each for each in now)


async def prune(
    judged: Sequence[JudgedBundle],
    delete: Callable[[str, Callable[[Removal], Awaitable[None]]], Awaitable[Removed]],
    done: Callable[[Removed], object],
) -> tuple[list[Removed], list[PruneFailure]]:
    """Delete what was judged so, the oldest first; `done` is called behind each. One that fails stops no other."""
    removed, failed = [], []
    for bundle in sorted((each for each in judged if each.deletes), key=lambda each: each.made_at):

        async def check(plan: Removal, bundle: JudgedBundle = bundle) -> None:
            _refuse_new_images(plan, bundle)
            await _refuse_new_manifest(plan, bundle)

        try:
            removal = await delete(bundle.manifest, check)
        except AmistreamError as error:
            # Somebody else has deleted it meanwhile.
            if error.code != "manifest.missing":
                failed.append(PruneFailure(manifest=bundle.manifest, error=ErrorBody(**error.as_dict())))
            continue
        removed.append(removal)
        done(removal)
    return removed, failed


def _refuse_new_images(plan: Removal, bundle: JudgedBundle) -> None:
    if new := [image for image in plan.images if image not in (bundle.images or ())]:
        raise RefusedError(
            "prune.changed",
            f"cannot delete {bundle.manifest}: {new[0]} was registered on it after the listing",
            hint="run the command again to decide anew",
            field="manifest",
        )


async def _refuse_new_manifest(plan: Removal, bundle: JudgedBundle) -> None:
    """Raise `RefusedError` if the manifest was put after the listing: it is another bundle's, and a young one."""
    place, name = plan.bundle.place, plan.bundle.manifest_name
    if not isinstance(place, BucketPlace):
        return
    async for listed in place.store.listed(name, below=False):
        if listed.name == name and listed.modified != bundle.made_at:
            raise RefusedError(
                "prune.changed",
                f"cannot delete {bundle.manifest}: it was made again after the listing",
                hint="run the command again to decide anew",
                field="manifest",
            )


def pruned(
    inventory: Inventory,
    judged: tuple[JudgedBundle, ...],
    removed: Sequence[Removed] = (),
    failed: Sequence[PruneFailure] = (),
    *,
    dry_run: bool,
) -> Pruned:
    return Pruned(
        location=inventory.location, dry_run=dry_run, bundles=judged, removed=tuple(removed), failed=tuple(failed)
    )
