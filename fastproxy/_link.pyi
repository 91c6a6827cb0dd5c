import ssl

def tls_over_memory(
    context: ssl.SSLContext, server_side: bool, server_hostname: str | None = None
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]: ...
