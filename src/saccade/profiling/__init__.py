"""What networks cost."""

from saccade.profiling.cost import Cost as Cost
from saccade.profiling.cost import cost as cost
from saccade.profiling.mechanisms import MechanismCost as MechanismCost
from saccade.profiling.mechanisms import mechanism_cost as mechanism_cost
