"""Statistics of evaluation: from per-problem correctness to a verdict in words.

    arrays     what goes in: correctness (P, n), checked
    passk      pass@k (unbiased), avg@n, maj@n, each as one value a problem
    intervals  Wilson, Wilson over problems, bootstrap over problems, Tango's for paired proportions
    paired     exact McNemar (greedy), sign-flip permutation test over problems (sampling)
    power      smallest detectable difference, before a run and after it
    multiple   Holm's correction
    results    one result (EvalResult), its figures with intervals
    compare    two results, or one against many checkpoints -> Comparison
    verdict    the sentence that a user reads
    fragile    nondet_proxy: gap to greedy, and the problems whose greedy answers vary
    plan       the command ``rft power``

P problems, n samples a problem. Correctness, rates and differences are fractions in [0, 1] or [-1, 1]; only verdicts
speak of percent and points. Problems are the unit of chance: an interval speaks about problems like these, not about
more samples of the same ones. numpy and scipy are imported where they are used. Pure functions, any thread.
"""
