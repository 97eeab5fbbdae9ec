"""Learning to walk: privileged teachers, PPO from pixels, distillation, evaluation, export.

Everything is in the modules: `env` (`make_env`), `recipes`, `train`, `distill`, `evaluate`, `export`, `checkpoint`, `robot`.
"""
