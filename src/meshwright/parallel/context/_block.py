r"""Attention of some queries to some keys, so that it can be put together from such blocks.

A block gives $o_j = \mathrm{softmax}(s_j) v_j$ and $\ell_j = \log \sum \exp s_j$; attention to all keys is
$\sum_j e^{\ell_j - \ell} o_j$ with $\ell = \log \sum_j e^{\ell_j}$. With $\ell$ known, each block's gradients follow
from $p_j = e^{s_j - \ell}$ alone.

Source: Liu et al., Ring Attention with Blockwise Transformers for Near-Infinite Context (2023); Dao, FlashAttention-2
(2023), algorithm 2 for the backward.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# What is added to the scores, broadcast to `b h l s`, with minus infinity where a query does not see a key; `lower`
# hides what is after the diagonal.
Bias = Tensor | Literal["lower"] | None

# Data types of the processor's kernel that gives the log-sum-exp with the output and keeps no scores.
_KERNEL_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """Attention of some queries over all blocks.

    Args:
        output: `b h l f`.
        log_sum: `b h l`.
        gradient: of the output.
    """

    output: Tensor
    log_sum: Tensor
    gradient: Tensor


def attended(query: Tensor, key: Tensor, value: Tensor, bias: Bias, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one block; queries that see no key give zeros and minus infinity.

    Args:
        query: `b h l e`.
        key: `b h s e`.
        value: `b h s f`.
        bias: of the scores.
        scale: factor of the scores.
    """
    if _has_kernel(query, value):
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *map(_dense, (query, key, value)), 0.0, isinstance(bias, str), attn_mask=_mask(bias, query, key),
            scale=scale,
        )  # fmt: skip
        return output, _minus_infinite(log_sum, bias) if isinstance(bias, Tensor) else log_sum
    scores = _scores(query, key, bias, scale)
    log_sum = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - _finite(log_sum).unsqueeze(-1))
    return weights @ value, log_sum


def merged(output: Tensor, log_sum: Tensor, other: Tensor, other_log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Two blocks of the same queries as one."""
    together = torch.logaddexp(log_sum, other_log_sum)
    base = _finite(together)
    output = output * torch.exp(log_sum - base).unsqueeze(-1)
    return output + other * torch.exp(other_log_sum - base).unsqueeze(-1), together


def gradients(
    query: Tensor, key: Tensor, value: Tensor, bias: Bias, scale: float, *, whole: Whole
) -> tuple[Tensor, Tensor, Tensor]:
    """What a block adds to the gradients of queries, keys and values.

    Args:
        query: as in `attended`, like the next four.
        key: of the block.
        value: of the block.
        bias: of the block.
        scale: of the scores.
        whole: of the same queries.
    """
    if _has_kernel(query, value):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *map(_dense, (whole.gradient, query, key, value, whole.output)), _finite(whole.log_sum),
            0.0, isinstance(bias, str), attn_mask=_mask(bias, query, key), scale=scale,
        )  # fmt: skip
    return gradients_with_scores(query, key, value, bias, scale, whole=whole)[:3]


def gradients_with_scores(
    query: Tensor, key: Tensor, value: Tensor, bias: Bias, scale: float, *, whole: Whole
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `gradients`, and what the block adds to the gradient of its scores, `b h l s`."""
    shared = (whole.output * whole.gradient).sum(-1)
    weights = torch.exp(_scores(query, key, bias, scale) - _finite(whole.log_sum).unsqueeze(-1))
    of_scores = weights * (whole.gradient @ value.transpose(-2, -1) - shared.unsqueeze(-1))
    of_value = weights.transpose(-2, -1) @ whole.gradient
    return of_scores @ key * scale, of_scores.transpose(-2, -1) @ query * scale, of_value, of_scores


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype in _KERNEL_TYPES and query.shape[-1] == value.shape[-1]


def _dense(tensor: Tensor) -> Tensor:
    """With features side by side, as the kernel takes for granted."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _scores(query: Tensor, key: Tensor, bias: Bias, scale: float) -> Tensor:
    if isinstance(bias, str):
        bias = query.new_full((query.shape[-2], key.shape[-2]), float("-inf")).triu(1)
    scores = query @ key.transpose(-2, -1) * scale
    return scores if bias is None else scores + bias


def _mask(bias: Bias, query: Tensor, key: Tensor) -> Tensor | None:
    """A tensor in the shape that the kernel takes."""
    return bias.expand(*query.shape[:-1], key.shape[-2]) if isinstance(bias, Tensor) else None


def _minus_infinite(log_sum: Tensor, bias: Tensor) -> Tensor:
    """Minus infinity for queries that see no key, which the kernel calls zero."""
    unseeing = (bias == float("-inf")).all(-1)
    return torch.where(unseeing, float("-inf"), log_sum)


def _finite(log_sum: Tensor) -> Tensor:
    """Zero instead of minus infinity, so that a difference is a number."""
    return torch.where(log_sum == float("-inf"), 0.0, log_sum)
