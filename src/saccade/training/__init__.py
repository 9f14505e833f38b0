"""Training and evaluation."""

from saccade.training.evaluate import accuracy as accuracy
from saccade.training.evaluate import predict as predict
from saccade.training.settings import TrainSettings as TrainSettings
