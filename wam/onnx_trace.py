"""A torch module as an ONNX graph without weights: every parameter is a graph input of its own name.

The module lives on the meta device, so tracing needs neither its weights nor the time to multiply them: a model of five
thousand million parameters is traced in seconds with no memory to speak of, its autoencoder included. Each node carries
the line of this repository that made it in its ``doc_string``, so that whoever refuses a node can say where it comes
from.

torch's TorchScript exporter is used: it gives the same nodes as the newer one in a tenth of the time, and keeps one
graph input per parameter. What it leaves to compute at run time is folded by ``wam.onnx_fold``.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx import register_custom_op_symbolic, symbolic_helper, unregister_custom_op_symbolic
from torch.onnx._internal.torchscript_exporter.symbolic_opset14 import scaled_dot_product_attention

import wam

__all__ = ["OPSET", "on_meta", "trace"]

OPSET = 20  # the newest that ONNX Runtime and TensorRT 10.3 both read whole; it brought Gelu as one operator
CHECK_WITH = torch._check_with
CONV2D = F.conv2d
REPOSITORY = Path(wam.__file__).resolve().parent.parent
FRAME = re.compile(r"^(?P<path>.+?)\((?P<line>\d+)\): (?P<function>\w+)$")


def on_meta(module: nn.Module) -> nn.Module:
    """Moves a module that will only ever be traced to the meta device; its buffers become parameters of the graph."""
    for part in module.modules():
        part._non_persistent_buffers_set.clear()  # the tracer takes what is in the state_dict for a parameter
    return module.to("meta").eval().requires_grad_(False)


def trace(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, opset: int = OPSET
) -> onnx.ModelProto:
    """Traces a module.

    Args:
        module: As ``on_meta`` returned it.
        inputs: Meta tensors in call order; their shapes become static.
        outputs: Names of what the module returns.
        opset: ONNX operator set.

    Returns:
        The graph; its inputs are ``inputs`` and then one for every parameter that it uses.
    """
    traced = io.BytesIO()
    with _exporter(opset), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            traced,
            dynamo=False,
            verbose=True,  # keeps the source lines
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            export_params=False,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,  # or equal parameters, which on meta are all, would be merged
        )
    model = onnx.load_from_string(traced.getvalue())
    lost = set(inputs) - {value.name for value in model.graph.input}
    lost |= set(inputs) - {name for node in model.graph.node for name in node.input}
    if lost:
        raise AssertionError(f"tracing lost the inputs {sorted(lost)}: something on their way cannot be traced.")
    for node in model.graph.node:
        node.doc_string = source_line(node.doc_string)
    return model


def source_line(stack: str) -> str:
    """Returns "wam/blocks.py:42 in merge" of a stack that torch recorded: its innermost frame of a model."""
    for line in stack.splitlines():
        frame = FRAME.match(line.strip())
        if frame is None:
            continue
        path = Path(frame["path"])
        if path.is_relative_to(REPOSITORY) and "site-packages" not in path.parts and path != Path(__file__).resolve():
            return f"{path.relative_to(REPOSITORY)}:{frame['line']} in {frame['function']}"
    return ""


@contextlib.contextmanager
def _exporter(opset: int) -> Iterator[None]:
    own = {"aten::scaled_dot_product_attention": _attention, "prim::ConstantChunk": _chunk}
    for name, symbolic in own.items():
        register_custom_op_symbolic(name, symbolic, opset)
    try:
        # The exporter warns that it is the older one and that traced Python values become constants; both are meant.
        # Asked to keep source lines it also prints the whole graph.
        log = mock.patch.object(torch._C, "_jit_onnx_log")
        check = mock.patch.object(torch, "_check_with", _check_with)
        convolution = mock.patch.object(F, "conv2d", _conv2d)
        with warnings.catch_warnings(), log, check, convolution:
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in own:
            unregister_custom_op_symbolic(name, opset)


def _check_with(error: type[Exception], condition: Any, message: Any) -> None:
    """Torch's own check of shapes; while tracing, a shape is a tensor, which that does not take for a condition."""
    CHECK_WITH(error, bool(condition), message)


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *rest: Any
) -> Tensor:
    """Torch's own convolution leaves no trace on the meta device; this one leaves its node and computes nothing."""
    if not x.is_meta or any(part != default for part, default in zip(rest, ((1, 1), 1), strict=False)):
        return CONV2D(x, weight, bias, stride, padding, *rest)
    pairs = ((part, part) if isinstance(part, int) else tuple(part) for part in (stride, padding))
    return _Convolution.apply(x, weight, bias, *pairs)


class _Convolution(torch.autograd.Function):
    """A convolution without dilation or groups, of which only shape and node are made."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        del ctx, bias
        sides = (
            (int(size) + 2 * around - int(kernel)) // step + 1
            for size, around, kernel, step in zip(x.shape[-2:], padding, weight.shape[-2:], stride, strict=True)
        )
        return x.new_empty((int(x.shape[0]), int(weight.shape[0]), *sides))

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, bias: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Any:
        given = (x, weight) if symbolic_helper._is_none(bias) else (x, weight, bias)
        kernel = [symbolic_helper._get_tensor_dim_size(weight, axis) for axis in (2, 3)]
        return g.op(
            "Conv",
            *given,
            dilations_i=(1, 1),
            group_i=1,
            kernel_shape_i=kernel,
            pads_i=(*padding, *padding),
            strides_i=stride,
        )


def _attention(g: Any, query: Any, key: Any, value: Any, *rest: Any) -> Any:
    """Scales queries only; torch's own scales queries and keys by the square root, one product more."""
    rank, head_dim = (symbolic_helper._get_tensor_rank(query), symbolic_helper._get_tensor_dim_size(query, -1))
    if rank is None or head_dim is None:  # behind an operator whose shape torch does not follow
        return scaled_dot_product_attention(g, query, key, value, *rest)
    dtype = {"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16}[query.type().scalarType()]
    scale = g.op("Constant", value_t=torch.tensor(head_dim**-0.5, dtype=dtype))
    turned = g.op("Transpose", key, perm_i=[*range(rank - 2), rank - 1, rank - 2])
    weights = g.op("Softmax", g.op("MatMul", g.op("Mul", query, scale), turned), axis_i=-1)
    return g.op("MatMul", weights, value)


def _chunk(g: Any, x: Any, chunks: int, dim: int) -> Any:
    """One Split with its sizes; torch's own leaves arithmetic on shapes and one Slice per part."""
    size = symbolic_helper._get_tensor_dim_size(x, dim)
    if size is None:  # behind an operator whose shape torch does not follow
        return g.op("Split", x, axis_i=dim, num_outputs_i=chunks, outputs=chunks)
    step = -(-size // chunks)
    sizes = [min(step, size - start) for start in range(0, size, step)]
    split = g.op("Constant", value_t=torch.tensor(sizes, dtype=torch.int64))
    return g.op("Split", x, split, axis_i=dim, outputs=len(sizes))
