"""The evaluation protocol: many episodes over seeds, scenes and conditions, with intervals, films and a failure gallery."""
