"""The two ways a user hears from us that something is not right with what was given."""


class InputError(ValueError):
    """A file, field or argument is wrong; the message names it and says what to do."""


class MissingExtra(ImportError):
    """A part was used whose optional packages are not installed; the message names the extra."""
