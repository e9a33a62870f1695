"""The controller's thinking: which GPU an allocation goes to, and why it can go to none.

Nothing here does I/O or knows Kubernetes objects, so allocator, explainer, command line and simulator decide alike.
"""
