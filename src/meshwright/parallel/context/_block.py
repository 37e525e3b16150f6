r"""Attention of some queries to some keys, so that it can be put together from such blocks.

A block gives $o_j = \mathrm{softmax}(s_j) v_j$ and $\ell_j = \log \sum \exp s_j$; attention to all keys is
$\sum_j e^{\ell_j - \ell} o_j$ with $\ell = \log \sum_j e^{\ell_j}$. With $\ell$ known, each block's gradients follow
from $p_j = e^{s_j - \ell}$ alone.

Source: Liu et al., Ring Attention with Blockwise Transformers for Near-Infinite Context (2023); Dao, FlashAttention-2
(2023), algorithm 2 for the backward.
"""

import torch
from torch import Tensor


def attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one block; queries that see no key give zeros and minus infinity.

    Args:
        query: `b h l e`.
        key: `b h s e`.
        value: `b h s f`.
        bias: added to the scores, broadcast to `b h l s`; minus infinity hides a key.
        scale: factor of the scores.
    """
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    *,
    log_sum: Tensor,
    gradient: Tensor,
    shared: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a block adds to the gradients of queries, keys, values and scores.

    Args:
        query: as in `attended`, like the next four.
        key: of the block.
        value: of the block.
        bias: of the block.
        scale: of the scores.
        log_sum: over all blocks, `b h l`.
        gradient: of the output over all blocks.
        shared: `(output * gradient).sum(-1)` over all blocks, `b h l`.
    """
    scores = _scores(query, key, bias, scale)
    weights = torch.exp(scores - _finite(log_sum).unsqueeze(-1))
    of_scores = weights * (gradient @ value.transpose(-2, -1) - shared.unsqueeze(-1))
    of_value = weights.transpose(-2, -1) @ gradient
    return of_scores @ key * scale, of_scores.transpose(-2, -1) @ query * scale, of_value, of_scores


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    scores = query @ key.transpose(-2, -1) * scale
    return scores if bias is None else scores + bias


def _finite(log_sum: Tensor) -> Tensor:
    """Zero instead of minus infinity, so that a difference is a number."""
    return torch.where(log_sum == float("-inf"), 0.0, log_sum)
