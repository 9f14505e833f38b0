"""Surgery on any ``nn.Module``: where edits can go, how they attach, and the way back. It knows no mechanism by name;
it is given a factory."""

from saccade.surgery.attach import Edited as Edited
from saccade.surgery.attach import class_of as class_of
from saccade.surgery.attach import detach as detach
from saccade.surgery.attach import replaced_by as replaced_by
from saccade.surgery.attach import set_aside as set_aside
from saccade.surgery.edit import Build as Build
from saccade.surgery.edit import apply_edits as apply_edits
from saccade.surgery.example import check_host as check_host
from saccade.surgery.example import host_modules as host_modules
from saccade.surgery.example import twin as twin
from saccade.surgery.forms import AttachedEdit as AttachedEdit
from saccade.surgery.forms import ConvBlend as ConvBlend
from saccade.surgery.forms import ConvTerm as ConvTerm
from saccade.surgery.forms import Difference as Difference
from saccade.surgery.forms import GateBlend as GateBlend
from saccade.surgery.forms import ScaleBlend as ScaleBlend
from saccade.surgery.forms import TermBlend as TermBlend
from saccade.surgery.host_state import attention_names as attention_names
from saccade.surgery.host_state import load_host_state as load_host_state
from saccade.surgery.live import check_unwrapped as check_unwrapped
from saccade.surgery.live import live_plan as live_plan
from saccade.surgery.live import unwrapped as unwrapped
from saccade.surgery.plan import Edit as Edit
from saccade.surgery.plan import Mode as Mode
from saccade.surgery.plan import Plan as Plan
from saccade.surgery.plan import Start as Start
from saccade.surgery.select import At as At
from saccade.surgery.select import Place as Place
from saccade.surgery.select import Selection as Selection
from saccade.surgery.select import match_paths as match_paths
from saccade.surgery.select import select as select
from saccade.surgery.sites import KINDS as KINDS
from saccade.surgery.sites import Site as Site
from saccade.surgery.sites import Sites as Sites
from saccade.surgery.survey import Survey as Survey
