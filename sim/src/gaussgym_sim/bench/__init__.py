"""How fast physics and the environment are, and how they compare: behind `gaussgym-sim bench`.

- `timing`: contestants take turns in one process, so that a machine's moods meet all of them; medians and spread
- `runs`: the environment with its time by part, and bare physics, as contestants
- `rivals`: gymnasium's AsyncVectorEnv around a plain single environment (`plain_env`), MuJoCo Warp on the CPU
- `command`: what is measured, tables and JSON
"""
