"""States, compared to the bit."""

from stages.adapters.state import State
from stages.adapters.storage import adapter_fingerprint, delta_fingerprint, fingerprint


def state_fingerprint(state: State) -> tuple[object, ...]:
    """Equal for states in which everything is equal."""
    carried = (state.adapter.scale, adapter_fingerprint(state.adapter)) if state.adapter else None
    return delta_fingerprint(state.delta), carried, fingerprint(state.memory), state.tasks
