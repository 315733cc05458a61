"""A launcher process for tests/test_launch.py: ``python launch_driver.py WITH_RAY MODULE <launcher arguments>``.

Runs rft.launch.main with another training module than OpenRLHF's. With WITH_RAY=0 no Ray head is started (it has its
own test, and one here): everything else is the launcher's own code.
"""

import sys

from rft import cluster, launch

with_ray, module, *arguments = sys.argv[1:]
if with_ray == "0":
    launch.ray_cluster.start_head = lambda *args, **kwargs: cluster.Cluster("127.0.0.1:1")
sys.exit(launch.main(arguments, module=module))
