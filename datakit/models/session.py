"""onnxruntime on one thread: the same bits from the same machine, whatever else it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Session:
    """An ONNX model, ready to run. `inputs`, `outputs`: name → (element type, shape)."""

    def __init__(self, model: bytes, source: str = "the model") -> None:
        try:
            import onnxruntime as ort
        except ImportError as problem:
            raise MissingExtra("running an ONNX model", "demo") from problem
        options = ort.SessionOptions()
        # Workers are processes: a pool of threads in each would fight over the cores, and sums
        # split over threads differ in their last bits.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's own exceptions share no base
            raise ConfigError(f"{source} is no model that onnxruntime can run: {problem}") from problem
        self.inputs = {item.name: (item.type, item.shape) for item in self._session.get_inputs()}
        self.outputs = {item.name: (item.type, item.shape) for item in self._session.get_outputs()}

    def run(self, output: str, value: NDArray[Any] | Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """One output: of one array for a model of one input, of arrays by name for a model of several."""
        if not isinstance(value, Mapping):
            (name,) = self.inputs
            value = {name: value}
        found: NDArray[Any] = self._session.run([output], dict(value))[0]
        return found
