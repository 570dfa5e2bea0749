"""Independent units of work on workers: in this process, in processes of this machine, on a Ray cluster."""

from attriflow.workers.run import ENGINES, check_engine, rounding, run_units
from attriflow.workers.units import Done, Pace, Unit

__all__ = ["ENGINES", "Done", "Pace", "Unit", "check_engine", "rounding", "run_units"]
