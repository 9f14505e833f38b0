"""Surgery on any ``nn.Module``: where edits can go, how they attach, and the way back. It knows no mechanism by name;
it is given a factory."""

from saccade.surgery.attach import AttachedEdit as AttachedEdit
from saccade.surgery.attach import ConvBlend as ConvBlend
from saccade.surgery.attach import ConvTerm as ConvTerm
from saccade.surgery.attach import Edited as Edited
from saccade.surgery.attach import GateBlend as GateBlend
from saccade.surgery.attach import TermBlend as TermBlend
from saccade.surgery.attach import detach as detach
from saccade.surgery.attach import host_class as host_class
from saccade.surgery.edit import apply_edits as apply_edits
from saccade.surgery.edit import live_plan as live_plan
from saccade.surgery.plan import Edit as Edit
from saccade.surgery.plan import Plan as Plan
from saccade.surgery.sites import Site as Site
from saccade.surgery.sites import match_paths as match_paths
from saccade.surgery.sites import resolve_sites as resolve_sites
