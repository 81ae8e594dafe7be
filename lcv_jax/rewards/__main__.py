"""`python -m lcv_jax.rewards`: rewards for other machines, and of a video."""

import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from lcv_jax.command_line import parse, status
from lcv_jax.rewards.protocol import Device, RewardSettings

_MIB = 1 << 20
Rewards = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|NAME=FOLDER")]


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serves rewards over HTTP until it is stopped, to this machine alone unless --host says otherwise: there is no
    password.
    """

    rewards: Rewards
    """Names, those of models with the folder of their weights."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network that this machine is in."""
    port: int = 8700
    """0 is any that is free."""
    device: Device = "cpu"
    """Where models compute."""
    most_mib: int = 2048
    """The largest request, in MiB."""

    def run(self) -> None:
        from lcv_jax.rewards.opening import open_rewards
        from lcv_jax.rewards.server import Server

        opened = open_rewards([_settings(each, self.device) for each in self.rewards])
        with Server([each.reward for each in opened], self.host, self.port, self.most_mib * _MIB) as server:
            print(f"serving {', '.join(server.rewards)} at {server.url}", flush=True)
            server.serve_forever()


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores of a video, one line of JSON."""

    video: str
    """A video file."""
    prompt: str
    """What it should show."""
    rewards: Rewards
    """Names, those of models with the folder of their weights, unless they are served."""
    url: str | None = None
    """Of a reward server."""
    device: Device = "cpu"
    """Where models compute."""

    def run(self) -> None:
        from lcv_jax.data.video import read_video
        from lcv_jax.rewards.gathering import gather
        from lcv_jax.rewards.opening import check_prompts, open_rewards
        from lcv_jax.rewards.wire import scores_to_json

        opened = open_rewards([_settings(each, self.device, self.url) for each in self.rewards])
        check_prompts(opened, [self.prompt])
        video = read_video(self.video)
        scored = gather(opened, [video.frames], [self.prompt], fps=float(video.fps))
        print(json.dumps(dict(zip(scored.names, scores_to_json(scored.scores[:, 0]), strict=True))))


def _settings(text: str, device: Device, url: str | None = None) -> RewardSettings:
    name, _, folder = text.partition("=")
    return RewardSettings(name, url=url, path=folder or None, device=device)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return status(lambda: parse(Serve | Score, args, prog="python -m lcv_jax.rewards").run(), "the server has ended")


if __name__ == "__main__":
    sys.exit(main())
