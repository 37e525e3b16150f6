"""What one layer, the embedding and the output of a transformer cost one worker per micro-batch."""

from dataclasses import dataclass
from statistics import fmean

from meshwright.cost.accelerator._calibration import Calibration, Habits
from meshwright.cost.accelerator._collectives import Collectives
from meshwright.cost.accelerator._exposure import host_time, tensor_exposed
from meshwright.cost.accelerator._kernels import Kernels
from meshwright.cost.accelerator._setup import Setup
from meshwright.units import Seconds

# The host launches a forward again.
_HOST_AGAIN = 1.25
# Of the traffic between matrix products, the forward's part.
_FORWARD_TRAFFIC = 0.4
# Gatherings and scatterings of a layer with the sequence split: 4 forward, 4 backward, and one input gathered again.
_SPLIT_EXCHANGES = 9
# All-reduces of a layer with the sequence whole: 2 forward, 2 backward.
_WHOLE_EXCHANGES = 4
# Keys and values are gathered in the forward, again in the backward, and their gradients are scattered.
_CONTEXT_EXCHANGES = 3
# Tokens go to their experts and back, forward and backward.
_EXPERT_EXCHANGES = 4
# Passes over the residual stream by the embedding, forward and backward.
_EMBEDDING_PASSES = 6


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer and micro-batch on one worker, without the sharding of parameters (s).

    Args:
        forward: its kernels.
        backward: its kernels.
        exposed: collectives inside the layer that nothing hides.
        recompute: kernels and collectives done again.
        host: the host's time to launch it.
        launch: the same while no messages between stages go both ways.
    """

    forward: Seconds
    backward: Seconds
    exposed: Seconds
    recompute: Seconds
    host: Seconds
    launch: Seconds

    @property
    def device(self) -> Seconds:
        """The device's time."""
        return self.forward + self.backward + self.exposed + self.recompute


def layer_time(
    setup: Setup, kernels: Kernels, collectives: Collectives, habits: Habits, calibration: Calibration
) -> LayerTime:
    """One layer's forward and backward."""
    forward, backward = _computing(setup, kernels)
    traffic = _traffic(setup, kernels, habits, calibration)
    forward += traffic * _FORWARD_TRAFFIC
    backward += traffic * (1 - _FORWARD_TRAFFIC)
    exposed = _exposed(setup, collectives, habits)
    again = {"none": 0.0, "selective": calibration.traffic.selective, "full": 1.0}[setup.recomputation]
    if setup.computed_again:
        again = fmean(setup.computed_again)
    full = setup.recomputation == "full"
    launches = _HOST_AGAIN if full else 1.0
    host = host_time(habits, tp=setup.tp, pp=setup.pp, num_hosts=collectives.machine.num_hosts)
    return LayerTime(
        forward=forward,
        backward=backward,
        exposed=exposed,
        recompute=again * forward + (exposed / 2 if full else 0.0),
        host=host * launches,
        launch=habits.host * launches,
    )


def ends_time(setup: Setup, kernels: Kernels, habits: Habits, calibration: Calibration) -> tuple[Seconds, Seconds]:
    """Embedding; output layer with loss: forward and backward together."""
    model, tokens = setup.model, setup.tokens
    embedding = kernels.moving(tokens * model.hidden * setup.item_size * _EMBEDDING_PASSES)
    products = sum(kernels.matrix_pair(tokens, model.hidden, model.vocab / setup.tp))
    logits = tokens * model.vocab / setup.tp
    loss = kernels.moving(logits * calibration.traffic.vocabulary * _passes(setup, habits, calibration))
    return embedding, products + loss


def _computing(setup: Setup, kernels: Kernels) -> tuple[Seconds, Seconds]:
    model, tokens, tp = setup.model, setup.tokens, setup.tp
    head = model.head_width
    pairs = [
        kernels.matrix_pair(tokens, model.hidden, (model.heads + 2 * model.kv_heads) * head / tp),
        kernels.matrix_pair(tokens, model.heads * head / tp, model.hidden),
    ]
    experts = model.experts / setup.ep if model.experts else 1.0
    rows = _ffn_tokens(setup) / experts * setup.expert_tensor / tp
    widened = model.ffn * (2 if model.gated else 1) / setup.expert_tensor
    for inner, columns in ((model.hidden, widened), (model.ffn / setup.expert_tensor, model.hidden)):
        one_forward, one_backward = kernels.matrix_pair(rows, inner, columns)
        pairs.append((one_forward * experts, one_backward * experts))
    if setup.fused_attention:
        pairs.append(kernels.fused_attention(tokens, model.sequence, model.heads * head / tp, head))
    else:
        pairs.append(kernels.scored_attention(setup.micro_batch * model.heads / tp, model.sequence, head))
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def _ffn_tokens(setup: Setup) -> float:
    return setup.tokens * (setup.model.active_experts if setup.model.experts else 1)


def _traffic(setup: Setup, kernels: Kernels, habits: Habits, calibration: Calibration) -> Seconds:
    """Norms, activations, residuals, dropout: whatever lies between matrix products."""
    model, counts = setup.model, calibration.traffic
    split = setup.tp if setup.sequence_split else 1
    inner = model.ffn * (2 if model.gated else 1) / 2 / setup.tp
    passes = setup.tokens * model.hidden * counts.hidden / split + _ffn_tokens(setup) * inner * counts.ffn
    return kernels.moving(setup.item_size * passes * _passes(setup, habits, calibration))


def _passes(setup: Setup, habits: Habits, calibration: Calibration) -> float:
    """Passes over memory that a framework's kernels make, relative to unfused eager ones."""
    return habits.traffic * (calibration.traffic.compiled if setup.compiled else 1.0)


def _exposed(setup: Setup, collectives: Collectives, habits: Habits) -> Seconds:
    model = setup.model
    size = setup.tokens * model.hidden * setup.item_size
    exposed = 0.0
    if setup.tp > 1:
        if setup.sequence_split:
            exchanges = _SPLIT_EXCHANGES * _tensor_share(setup)
            whole = exchanges * collectives.gather(setup.tp, 1, size)
            latency = exchanges * collectives.gather(setup.tp, 1, 0.0)
        else:
            exchanges = _WHOLE_EXCHANGES * _tensor_share(setup)
            whole = exchanges * collectives.all_reduce(setup.tp, 1, size)
            latency = exchanges * collectives.all_reduce(setup.tp, 1, 0.0)
        exposed += tensor_exposed(whole, latency, habits)
    if setup.cp > 1:
        keys_values = setup.tokens * 2 * model.kv_heads * model.head_width * setup.item_size / setup.tp * setup.cp
        once = collectives.gather(setup.cp, setup.tp, keys_values)
        exposed += _CONTEXT_EXCHANGES * once * collectives.shares.context
    if setup.ep > 1:
        sent = _ffn_tokens(setup) * model.hidden * setup.item_size / setup.tp
        exposed += _EXPERT_EXCHANGES * collectives.all_to_all(setup.ep, setup.expert_tensor, sent)
    return exposed


def _tensor_share(setup: Setup) -> float:
    """Of a layer's tensor-parallel exchanges, those around attention, and around a network that is split as well."""
    return 1.0 if setup.expert_tensor > 1 else 0.5
