"""From a spec and its weights to a plan: everything that is done once, in numpy, before anything runs.

In the order of use: :mod:`.graph` (the layers as values, batch norms folded by :mod:`.fold`), :mod:`.expansion` (the
exact rewrite), :mod:`.lowering` and :mod:`.fusion` to the phases of :mod:`.phases`; :mod:`.rewrite` is the way through.
:mod:`.algorithms` chooses how a convolution is computed; :mod:`.oracle` runs a plan in float64.
"""
