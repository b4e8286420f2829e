"""
nftables rules made from the rows: of a host (what comes in and goes out) and of a router (what passes).

The policy is to drop. A host does not trust the router to filter for it, nor its own processes to talk to others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from chancery.deploy.flows import Flow, crosses, flows
from chancery.deploy.site import Site, host_of

TABLE = "chancery"
_ERRORS = (
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
)
_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } ip6 hoplimit 255 accept"
# A source address comes in where answers to it would go out: no zone speaks in another's name.
_UNSPOOFED = (
    "\tchain prerouting {",
    "\t\ttype filter hook prerouting priority raw; policy accept;",
    "\t\tfib saddr . iif oif missing drop",
    "\t}",
)
_KNOWN = ("ct state invalid drop", "ct state established,related accept")


def host_rules(site: Site, name: str) -> str:
    """Return the rules of a host or router as a script for `nft -f`: loaded whole or not at all."""
    host = host_of(site, name)
    rows = flows(site)
    incoming = [row for row in rows if row.target == name]
    outgoing = [row for row in rows if row.origin == name]
    passing = [row for row in rows if crosses(row, site)] if "router" in host.runs else []
    return "\n".join(
        [
            "#!/usr/sbin/nft -f",
            f"# Made from site.toml for {name}; changes are made there.",
            f"table inet {TABLE}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            *(_UNSPOOFED if "router" in host.runs else ()),
            *_chain("input", ["iif lo accept", *_KNOWN, *_ERRORS, _NEIGHBOURS], incoming),
            *_chain("output", ["oif lo accept", *_KNOWN, *_ERRORS, _NEIGHBOURS], outgoing),
            *_chain("forward", [*_KNOWN, *_ERRORS] if passing else [], passing),
            "}",
            "",
        ]
    )


def _chain(hook: str, first: Iterable[str], rows: Iterable[Flow]) -> list[str]:
    lines = [f"\tchain {hook} {{", f"\t\ttype filter hook {hook} priority filter; policy drop;"]
    lines += [f"\t\t{line}" for line in first]
    lines += [f"\t\t{line}" for row in rows for line in _accept(row)]
    lines.append(f'\t\tlimit rate 5/second log prefix "chancery {hook} refused: "')
    return [*lines, "\t}"]


def _accept(row: Flow) -> list[str]:
    """One line for each family of addresses that has both ends."""
    lines = []
    for family, version in (("ip", 4), ("ip6", 6)):
        sources = [text for text in row.sources if ipaddress.ip_network(text).version == version]
        targets = [text for text in row.destinations if ipaddress.ip_network(text).version == version]
        if sources and targets:
            words = [_match(family, "saddr", sources), _match(family, "daddr", targets)]
            words += [f"{row.protocol} dport {row.port}", "ct state new"]
            comment = f'comment "{row.origin} to {row.target}: {row.purpose}"'
            lines.append(" ".join([*(word for word in words if word), "accept", comment]))
    return lines


def _match(family: str, side: str, texts: list[str]) -> str:
    everything = any(ipaddress.ip_network(text).prefixlen == 0 for text in texts)
    if everything:
        # The other side names the family; if it did not, this must.
        return "" if side == "saddr" else f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'}"
    return f"{family} {side} " + (texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }")
