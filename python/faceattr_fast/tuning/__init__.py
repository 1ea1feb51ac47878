"""``faceattr tune``: :mod:`.measure` finds the fastest algorithms on this machine, :mod:`.file` keeps them."""
