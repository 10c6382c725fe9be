"""EfficientNet-Lite0 as an ONNX graph, written with numpy and onnx: batch norms folded into the convolutions.

The net of Tan & Le 2019 at width and depth 1, in the Lite form of Google's TPU models: no squeeze and
excitation, ReLU6 everywhere, TensorFlow's SAME padding, input (x - 127) / 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import MissingExtra

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the 16 blocks
EPSILON = 1e-3  # of the batch norms; TensorFlow's value, not PyTorch's
SIDE, DIM, CLASSES = 224, 1280, 1000
OPSET = 17
IR_VERSION = 8  # the oldest that knows this opset, so that older runtimes read it too


def lite0_graph(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """A model of uint8 `images` (N, 224, 224, 3); gives float32 `features` (N, 1280), `logits` (N, 1000)."""
    try:
        from onnx import TensorProto, helper
    except ImportError as problem:
        raise MissingExtra("the encoder efficientnet-lite0", "demo") from problem
    net = _Net(weights)
    now = net.conv(net.normalised("images"), "_conv_stem", "_bn0", stride=2)
    for index, stride in enumerate(STRIDES):
        now = _block(net, now, f"_blocks.{index}", stride)
    now = net.conv(now, "_conv_head", "_bn1")
    net.add("Flatten", [net.add("GlobalAveragePool", [now])], "features", axis=1)
    matrix, bias = net.weight("_fc.weight"), net.weight("_fc.bias")
    net.add("Gemm", ["features", matrix, bias], "logits", transB=1)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
        for name, width in (("features", DIM), ("logits", CLASSES))
    ]
    graph = helper.make_graph(net.nodes, "efficientnet-lite0", [images], outputs, net.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _block(net: _Net, source: str, name: str, stride: int) -> str:
    """One inverted bottleneck: expand, depthwise, project, and the way around where the shape stays."""
    now = source
    if f"{name}._expand_conv.weight" in net.weights:
        now = net.conv(now, f"{name}._expand_conv", f"{name}._bn0")
    now = net.conv(now, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True)
    width_in = net.weights[f"{name}._depthwise_conv.weight"].shape[0]
    if f"{name}._expand_conv.weight" in net.weights:
        width_in = net.weights[f"{name}._expand_conv.weight"].shape[1]
    now = net.conv(now, f"{name}._project_conv", f"{name}._bn2", clip=False)
    width_out = net.weights[f"{name}._project_conv.weight"].shape[0]
    return net.add("Add", [now, source]) if stride == 1 and width_in == width_out else now


class _Net:
    """Nodes and constants as they come; every value named by the node that makes it."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name], name)

    def normalised(self, source: str) -> str:
        """float32 (N, 3, height, width), (x - 127) / 128."""
        from onnx import TensorProto

        real = self.add("Cast", [source], to=TensorProto.FLOAT)
        centred = self.add("Sub", [real, self.constant(127)])
        scaled = self.add("Div", [centred, self.constant(128)])
        return self.add("Transpose", [scaled], perm=[0, 3, 1, 2])

    def conv(
        self,
        source: str,
        name: str,
        norm: str,
        *,
        stride: int = 1,
        depthwise: bool = False,
        clip: bool = True,
    ) -> str:
        """Convolution, its batch norm folded in (in float64), and ReLU6 where `clip`."""
        gain, bias, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        kernel = self.weights[f"{name}.weight"].astype(np.float64)
        scale = gain / np.sqrt(variance + EPSILON)
        folded = self.constant(kernel * scale[:, None, None, None], f"{name}.folded")
        shift = self.constant(bias - mean * scale, f"{name}.shift")
        now = self.add(
            "Conv",
            [source, folded, shift],
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=kernel.shape[0] if depthwise else 1,
        )
        return self.add("Clip", [now, self.constant(0), self.constant(6)]) if clip else now
