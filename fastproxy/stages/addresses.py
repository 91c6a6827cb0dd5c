"""Which client addresses may call (`allowed_ips`), and whose X-Forwarded-For is believed."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network


class AddressRule:
    """An allow-list of networks over the client's address."""

    def __init__(self, allowed: list[str], use_forwarded: bool, trusted: list[str]) -> None:
        self.allowed = [ip_network(a, strict=False) for a in allowed]
        self.trusted = [ip_network(t, strict=False) for t in trusted]
        self.use_forwarded = use_forwarded

    def client(self, peer: str, forwarded: bytes | None) -> str:
        """The client's address: the last X-Forwarded-For hop that isn't one of our own proxies.

        The field counts only when it is switched on and, if `trusted_proxy_ranges` is set, when the
        peer lies in them: anybody can send the field.
        """
        if not self.use_forwarded or not forwarded:
            return peer
        if not self.trusted:
            return forwarded.split(b",")[0].decode("latin-1").strip()
        if not _within(peer, self.trusted):
            return peer
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            if not _within(hop.strip(), self.trusted):
                return hop.strip()
        return peer

    def allows(self, address: str) -> bool:
        """Whether this address may call; what isn't an address may not."""
        return _within(address, self.allowed)


def source(address: str) -> str:
    """Whose doing is counted together: an address, of IPv6 the network of 64 bits that one client has."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address[:64]
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ip_network((ip, 64), strict=False))
    return str(ip)


def _within(address: str, networks: list[IPv4Network | IPv6Network]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    return any(ip in network for network in networks)
