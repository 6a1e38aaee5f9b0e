"""Price any JAX program from what XLA compiled: `cost(f, *args)`.

`program` gets the two stages of a program out of JAX, `hlo` reads their bytes, `trips` finds
how often loops run, `count` prices each instruction (`linalg` the library calls), `report` sums
up.
"""

from lintoolkit.cost.count import Branches, Loop, Op, Work
from lintoolkit.cost.linalg import Call, Priced, register_custom_call
from lintoolkit.cost.program import cost
from lintoolkit.cost.report import Cost, View

__all__ = [
    "Branches",
    "Call",
    "Cost",
    "Loop",
    "Op",
    "Priced",
    "View",
    "Work",
    "cost",
    "register_custom_call",
]
