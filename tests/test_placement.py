"""Which rank computes on which GPU (rft/placement.py)."""

from rft.placement import here, shared


def place(role, device, node="n1"):
    return {"role": role, "rank": 0, "node": node, "device": device}


def test_a_shared_gpu_stops_the_run():
    places = [place("actor", "GPU-4"), place("actor", "GPU-5"), place("engine 0", "GPU-0"), place("engine 1", "GPU-5")]
    assert shared(places) == [("n1", "GPU-5")]


def test_separate_sides_and_other_nodes_share_nothing():
    places = [place("actor", "GPU-4"), place("engine 0", "GPU-0"), place("engine 1", "GPU-4", node="n2")]
    assert shared(places) == []
    assert shared([place("actor", None), place("engine 0", None)]) == []


def test_here_names_this_process():
    import os

    found = here("actor", 3)
    assert found["pid"] == os.getpid() and found["role"] == "actor" and found["rank"] == 3 and found["node"]
