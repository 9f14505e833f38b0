"""Training and evaluation."""

from saccade.training.evaluate import Evaluation as Evaluation
from saccade.training.evaluate import accuracy as accuracy
from saccade.training.evaluate import evaluate as evaluate
from saccade.training.evaluate import predict as predict
from saccade.training.settings import OptimSettings as OptimSettings
from saccade.training.settings import ScheduleSettings as ScheduleSettings
from saccade.training.settings import TrainSettings as TrainSettings
