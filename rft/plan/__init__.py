"""Will a run fit? Memory of every GPU and of the host, bytes on disk and seconds a step, from a recipe's flags."""
