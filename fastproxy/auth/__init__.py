"""The process of `custom_auth`: the operator's own function says who may come in."""
