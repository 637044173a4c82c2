"""The one exception that means "your input, not our code": the command line turns it into exit status 2."""


class InputError(ValueError):
    """Bad input from the user. The message is one sentence that names the file, line, key or layer at fault
    and says what would be right."""
