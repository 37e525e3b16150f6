"""Which rule an operation has."""

from torch.fx import Node

from meshwright.parallel.tensor._by_row import ByRow
from meshwright.parallel.tensor._conversions import Conversion
from meshwright.parallel.tensor._operation import operation_name
from meshwright.parallel.tensor._random import PartRandom
from meshwright.parallel.tensor.rules._attention import Attention, Ring
from meshwright.parallel.tensor.rules._convolution import ByChannel, Convolution, Padding
from meshwright.parallel.tensor.rules._indexing import AlongDim, Embedding, EmbeddingBag, Index, RowChoice
from meshwright.parallel.tensor.rules._loss import CrossEntropy
from meshwright.parallel.tensor.rules._matrix import AddedProduct, Einsum, GroupedProduct, Linear, MatrixProduct
from meshwright.parallel.tensor.rules._moved import Moved
from meshwright.parallel.tensor.rules._normalization import Channels, Groups, LastDims
from meshwright.parallel.tensor.rules._pieces import Concatenation, Pieces, Selection, Stack
from meshwright.parallel.tensor.rules._pointwise import Pointwise, is_pointwise
from meshwright.parallel.tensor.rules._rearranged import AddedDim, Alike, DroppedDims, Permutation, Repetition, Stretch
from meshwright.parallel.tensor.rules._reduction import ElementLoss, Reduction
from meshwright.parallel.tensor.rules._rows import Rows
from meshwright.parallel.tensor.rules._rule import Rule
from meshwright.parallel.tensor.rules._views import View

_FAMILIES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (Linear(), ("linear",)),
    (MatrixProduct(), ("matmul", "mm", "bmm", "mv", "dot")),
    (AddedProduct(), ("addmm", "baddbmm", "addmv")),
    (Einsum(), ("einsum",)),
    (GroupedProduct(), ("_grouped_mm",)),
    (View(), ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as")),
    (
        Permutation(),
        ("permute", "transpose", "t", "mT", "numpy_T", "adjoint", "movedim", "moveaxis", "swapaxes", "swapdims"),
    ),
    (Stretch(), ("expand", "broadcast_to", "expand_as")),
    (Repetition(), ("repeat", "repeat_interleave")),
    (AddedDim(), ("unsqueeze",)),
    (DroppedDims(), ("squeeze",)),
    (Pieces(), ("split", "split_with_sizes", "chunk", "tensor_split", "slice", "narrow")),
    (Concatenation(), ("cat", "concat", "concatenate")),
    (Stack(), ("stack",)),
    (Selection(), ("select", "unbind")),
    (
        Reduction(),
        ("sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "prod", "norm",
         "linalg_vector_norm", "logsumexp", "all", "any", "nansum"),
    ),
    (ElementLoss(), ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits")),
    (
        Alike("dim"),
        ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk", "logcumsumexp",
         "cummax", "glu", "normalize"),
    ),
    (Alike("dims"), ("flip", "roll")),
    (Alike(last=2), ("triu", "tril")),
    (LastDims(), ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")),
    (Channels(), ("batch_norm", "instance_norm", "_native_batch_norm_legit", "native_batch_norm")),
    (Groups(), ("group_norm",)),
    (
        Convolution(),
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    ),
    (ByChannel(1), ("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "upsample_linear1d", "upsample_nearest1d")),
    (
        ByChannel(2),
        ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices",
         "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    ),
    (ByChannel(3), ("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d")),
    (Padding(), ("pad", "constant_pad_nd")),
    (Attention(), ("scaled_dot_product_attention",)),
    (Embedding(), ("embedding",)),
    (EmbeddingBag(), ("embedding_bag", "_embedding_bag")),
    (RowChoice(), ("index_select",)),
    (AlongDim(), ("gather", "scatter", "scatter_add")),
    (Index(), ("index",)),
    (CrossEntropy(), ("cross_entropy_loss",)),
)  # fmt: skip
# Operations that are not ATen's: our own, and what libraries define for lack of one.
_OTHERS: dict[str, Rule] = {"ring_attention": Ring(), "transformers.grouped_mm_fallback": GroupedProduct()}
_BY_NAME = {f"aten.{name}": rule for rule, names in _FAMILIES for name in names} | _OTHERS
_POINTWISE = Pointwise()
_MOVED = Moved()
_ROWS = Rows()


def rule_of(node: Node) -> Rule | None:
    """The rule of an operation; None where it can only be done whole."""
    if isinstance(node.target, Conversion):
        return _MOVED
    if isinstance(node.target, ByRow):
        return _ROWS
    if isinstance(node.target, PartRandom):
        return _POINTWISE
    name = operation_name(node.target)
    if name in _BY_NAME:
        return _BY_NAME[name]
    return _POINTWISE if is_pointwise(node) else None
