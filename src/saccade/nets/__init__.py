"""Networks: the hosts that this library builds itself."""

from saccade.nets.build import build_model as build_model
from saccade.nets.cifar_resnet import BasicBlock as BasicBlock
from saccade.nets.cifar_resnet import Bottleneck as Bottleneck
from saccade.nets.cifar_resnet import CifarResNet as CifarResNet
from saccade.nets.files import load as load
from saccade.nets.files import save as save
from saccade.nets.hosts import Host as Host
