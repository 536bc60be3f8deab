"""Jobs whose credentials fail in the middle: what is stored stays, and a resume with good ones finishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from aws.failing import PROVIDERS, SECRET, World, prepare, running

if TYPE_CHECKING:
    from pathlib import Path

    from faults.scene import MakeScene
    from support.proxy import Request


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_that_fails_in_a_job(
    name: str, scene: MakeScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job fails with the provider's name and is resumable, with every part that was stored."""
    folder = tmp_path / "provider"
    folder.mkdir()
    async with running(World(folder)) as world:
        provider = PROVIDERS[name]

        def break_it(request: Request) -> None:
            if request.method == "PUT" and request.path.endswith(".part.02"):
                world.break_it(next(iter(provider.ways)))

        async with scene(at_random=break_it) as made:
            prepare(world, provider, monkeypatch)
            job = await made.run(made.request(register_image=False))
            assert (job.state, job.view().resumable) == (State.FAILED, True)
            error = job.view().error
            assert error is not None
            assert error.code == "aws.credentials"
            assert all(word in error.message for word in provider.named)
            assert SECRET not in f"{job.view()}{caplog.text}"
            assert [key for key in made.left() if ".part." in key]
            made.proxy.at_random = None
            prepare(world, provider, monkeypatch)
            assert (await made.resume(job)).state is State.DONE
            made.fits()
            made.parts_stored_once()
