"""Whole ZeRO-3 gathers on backends that do not order their collectives.

``deepspeed.zero.Init._allgather_params_coalesced`` (0.18.5) starts one asynchronous all-gather a parameter and waits
for the last handle alone. On a device's stream that is enough. gloo works on two at a time, so that the one before the
last may still be under way when the parameters are read: garbage in what `GatheredParameters` shows, and for good in
the small parameters that stay gathered after an optimizer step. Called once by the patched strategy on every rank.
"""

from rft import device


def wait_for_every_gather() -> None:
    """Let blocking gathers of several parameters wait for each one, unless the backend orders them."""
    if device.orders_collectives():
        return
    from deepspeed.runtime.zero.partition_parameters import Init

    def one_after_the_other(self, param_list, hierarchy=0, quantize=False):
        self._allgather_params_sequential(param_list, hierarchy=hierarchy)

    Init._allgather_params_coalesced = one_after_the_other
