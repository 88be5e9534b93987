"""Docstrings name objects by Sphinx roles; on the site the name alone is shown, as code."""

import re

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")


class PlainRoles(griffe.Extension):
    """Turns ``:class:`Profile``` into ```Profile```."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every object once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
