"""Comparisons: trials, statistics, verdicts."""

from saccade.comparison.run import Comparison as Comparison
from saccade.comparison.run import compare as compare
