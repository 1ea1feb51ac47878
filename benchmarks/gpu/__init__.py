"""The steps of ``gpu_check.py``; README.md says what they do.

``main`` runs them in processes of their own. Until ``build`` has run, the package may not be
there: what steps before it need does not import it.
"""
