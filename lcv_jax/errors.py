"""The one exception that bad input raises."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a key, a value, an option.

    The message is one line that says what is wrong, where, what was expected and what to do. Commands print it
    after "error: " and exit with status 2; library callers may catch it. Anything else that escapes is a bug of ours.
    """
