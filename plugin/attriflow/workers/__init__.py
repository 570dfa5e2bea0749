"""Independent units of work on workers: in this process, in processes of this machine, on a Ray cluster."""

from attriflow.workers.run import ENGINES, run_units
from attriflow.workers.units import Done, Unit

__all__ = ["ENGINES", "Done", "Unit", "run_units"]
