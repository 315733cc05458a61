"""``rft samples``: what the model wrote, on a terminal: list, filter, search, sort, read.

`index` reads the files of samples/, `query` filters, `browse` is the screen's state and its keys, `view` draws, `cli`
is the verb. Reads only.
"""
