"""Price any JAX program from what XLA compiled: `cost(f, *args)`.

`program` has `cost`. `stages` gets the two stages of a program out of JAX (`target` has them
compiled for hardware that is not there) and `hlo` reads their bytes. `walk` multiplies each
instruction by how often it runs (`trips` has the loops), with what `price` (`products` for
dots and convolutions, `linalg` for library calls, `kernels` for Pallas) and `traffic` say of
one run; `names` reads JAX's op names. `report` sums up, `tables` writes it down, `explain` says
what compiling changed, `roofline` what bounds it, `plot` draws it.
"""

from lintoolkit.cost.explain import Comparison, compare
from lintoolkit.cost.linalg import Call, Priced, register_custom_call
from lintoolkit.cost.price import Work
from lintoolkit.cost.program import cost
from lintoolkit.cost.report import Cost, Memory, View
from lintoolkit.cost.roofline import DEVICES, Device, Roofline, find_device, measure_device
from lintoolkit.cost.walk import Branches, Collective, Loop, Op

__all__ = [
    "DEVICES",
    "Branches",
    "Call",
    "Collective",
    "Comparison",
    "Cost",
    "Device",
    "Loop",
    "Memory",
    "Op",
    "Priced",
    "Roofline",
    "View",
    "Work",
    "compare",
    "cost",
    "find_device",
    "measure_device",
    "register_custom_call",
]
__dir__ = lambda: __all__
