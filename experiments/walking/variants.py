"""`gates.py` with what the package does not have: memory of past observations, and actions that are smoothed before the robot gets them.

    python experiments/walking/variants.py --past 2 --clock m_steps --minutes 1.5 --budget 6.5
    python experiments/walking/variants.py --smooth 0.5 ...

All other arguments are those of `gates.py`.
"""

import argparse
import sys

import gates
import torch
from gaussgym_learn.env import GaussgymVecEnv
from gaussgym_learn.recipes import TEACHER_GROUPS


def remember(steps):
    """Every environment also gives the proprioception of the last `steps` control steps, as the group `past`."""
    pack = GaussgymVecEnv._pack

    def with_past(self, obs):
        now = obs["proprio"]
        memory = getattr(self, "_past", None)
        if memory is None or len(memory) != len(now):
            memory = now.repeat(1, steps)
        fresh = (self.env.episode_length_buf == 0)[:, None]
        past = torch.where(fresh, now.repeat(1, steps), memory)
        self._past = torch.cat([now, past[:, : -now.shape[1]]], 1)
        return pack(self, obs | {"past": past})

    GaussgymVecEnv._pack = with_past


def smooth(keep):
    """Robots get a running mean of the actions, which keeps this share of the one before."""
    step = GaussgymVecEnv.step

    def smoothed(self, actions):
        return step(self, torch.lerp(actions, self.env.action, keep))

    GaussgymVecEnv.step = smoothed


def main():
    """See the module."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--past", type=int, default=0, help="control steps")
    parser.add_argument("--smooth", type=float, default=0.0, help="0: as they are")
    args, rest = parser.parse_known_args()
    if args.past > 0:
        remember(args.past)
        groups = (*TEACHER_GROUPS, "past")
        rest += [] if "--set" in rest else ["--set"]
        at = rest.index("--set") + 1
        # The mirror image of `past` is not known.
        unmirrored = ("symmetry.mirror_coef=0", "symmetry.swap=0")
        rest[at:at] = [f"network.actor_groups={groups!r}", f"network.critic_groups={groups!r}", *unmirrored]
    if args.smooth > 0.0:
        smooth(args.smooth)
    sys.argv[1:] = rest
    gates.main()


if __name__ == "__main__":
    main()
