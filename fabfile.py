"""The verbs of `fab`, and nothing else: what each one does stands in bootstrap/tasks.py."""

from bootstrap.tasks import check, demo

__all__ = ["check", "demo"]
