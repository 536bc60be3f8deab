"""Every scenario, in the order in which all of them are run."""

from __future__ import annotations

from benchmarks.scenarios import (
    convert,
    fleet,
    loop,
    peers,
    resume,
    scale,
    search,
    several,
    stages,
    start,
    throughput,
    tree,
    tuning,
    unpack,
    uploads,
    used,
)

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        stages.SCENARIO,
        throughput.SCENARIO,
        several.SCENARIO,
        peers.SCENARIO,
        uploads.SCENARIO,
        scale.SCENARIO,
        tuning.SCENARIO,
        search.SCENARIO,
        resume.SCENARIO,
        unpack.SCENARIO,
        convert.SCENARIO,
        used.SCENARIO,
        tree.SCENARIO,
        loop.SCENARIO,
        fleet.SCENARIO,
        start.SCENARIO,
    )
}
