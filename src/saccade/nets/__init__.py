"""Networks: the hosts that this library builds itself."""

from saccade.nets.build import build_model as build_model
from saccade.nets.cifar_resnet import BasicBlock as BasicBlock
from saccade.nets.cifar_resnet import Bottleneck as Bottleneck
from saccade.nets.cifar_resnet import CifarResNet as CifarResNet
from saccade.nets.create import create_model as create_model
from saccade.nets.create import list_networks as list_networks
from saccade.nets.files import load as load
from saccade.nets.files import save as save
from saccade.nets.hosts import Host as Host
from saccade.nets.in_timm import register_networks as _register_networks
from saccade.nets.residual_attention import ResidualAttentionNet as ResidualAttentionNet
from saccade.nets.wide_resnet import WideResNet as WideResNet

# The one thing that an import does: the networks are then known to timm.create_model.
_register_networks()
