"""A terminal, for tests of what is shown on one."""

import io


class Terminal(io.StringIO):
    """To be set as ``sys.stderr`` inside a test: between its phases pytest sets its own again."""

    def isatty(self):
        return True
