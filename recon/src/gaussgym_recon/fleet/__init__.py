"""Many captures built into scenes on Ray: which (`plan`), one of them (`job`), all of them (`fleet`)."""

from gaussgym_recon.fleet.fleet import FleetCfg, FleetReport, fleet

__all__ = ["FleetCfg", "FleetReport", "fleet"]
