"""What two calls have in common."""


def without(own, value):
    """Returns a value without the fields of these names, however deep."""
    if isinstance(value, list):
        return [without(own, item) for item in value]
    if isinstance(value, dict):
        return {name: without(own, item) for name, item in value.items() if name not in own}
    return value
