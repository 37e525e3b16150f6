"""What a node of a graph calls besides torch's own operations."""


class Target:
    """Something callable under the name that the code of a graph calls it by, as functions have one.

    Args:
        name: a valid identifier.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = type(self).__module__
