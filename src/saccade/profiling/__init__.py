"""What networks cost."""

from saccade.profiling.cost import Cost as Cost
from saccade.profiling.cost import cost as cost
