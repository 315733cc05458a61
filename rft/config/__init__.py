"""One file for a run's settings: ``--config run.yaml`` and ``--print-config``, for every launcher.

    sections   which section a setting stands in, and what kind of value it takes
    read       a YAML file as settings, each checked
    layers     recipe < task < file < command line, as one list of tokens
    task       what the task selects: prompts, reward, template
    show       the resolved whole as a file

Called by `rft.launch` on the main thread before anything starts; neither torch nor data sets are imported.
"""
