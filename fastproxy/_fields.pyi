FIELD_NAMES: tuple[str, ...]
