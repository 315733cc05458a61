"""What can be known to be wrong before a run costs anything: one table of checks (:mod:`rft.preflight.table`).

Every launcher runs it before anything starts, ``rft preflight`` and a launcher's ``--preflight`` run it alone. Two of
its checks can only be made once the engines have answered; the trainer makes them after the first rollout
(:mod:`rft.preflight.first_rollout`).
"""
