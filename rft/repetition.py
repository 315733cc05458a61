"""How much a text repeats itself: a sign of answers that are long for the reward's sake, or of a policy that loops.

Called by `rft.rollout_stats` in the controller. Plain arithmetic on token ids; no text is decoded.
"""

import numpy as np

NGRAM = 8
_BASE = np.int64(1_000_003)


def repeated_share(tokens: np.ndarray, n: int = NGRAM) -> float:
    """Share of the n-grams that have occurred before: 1 - distinct / all; 0.0 for fewer than two n-grams.

    tokens   (T,) int64 ids of one answer
    returns  in [0, 1): 0 if nothing repeats, close to 1 for a loop. n-grams are told apart by a 64-bit hash
    """
    count = len(tokens) - n + 1
    if count < 2:
        return 0.0
    hashes = np.zeros(count, dtype=np.int64)
    with np.errstate(over="ignore"):  # modulo 2**64 is what is wanted
        for offset in range(n):
            hashes = hashes * _BASE + tokens[offset : offset + count].astype(np.int64)
    return 1.0 - len(np.unique(hashes)) / count
