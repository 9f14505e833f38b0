"""Pure functions on tensors that more than one mechanism builds on."""

from saccade.ops.relative_attention import available_backends as available_backends
from saccade.ops.relative_attention import relative_attention_2d as relative_attention_2d
from saccade.ops.relative_attention import relative_attention_2d_weights as relative_attention_2d_weights
from saccade.ops.relative_attention import resize_relative_table as resize_relative_table
