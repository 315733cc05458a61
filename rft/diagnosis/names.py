"""Which figure stands in for another that a run did not log. Names are those of `rft.metrics`; older ones are renamed
by it before.
"""

STAND_INS: dict[str, tuple[str, ...]] = {
    "truncated": ("length_limit", "truncated_response"),
    "grad_norm_max": ("grad_norm",),
    "grad_norm": ("grad_norm_max",),
    "kl": ("logprobs_diff",),
}


def names_of(figure: str) -> tuple[str, ...]:
    """The figure and its stand-ins, first choice first."""
    return (figure, *STAND_INS.get(figure, ()))
