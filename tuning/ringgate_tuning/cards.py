"""Network cards: which core takes which packets. Advice as steps; a step is a file to write, or a command for a person.

RSS: the card spreads flows over its queues, each with an interrupt. RPS: the kernel spreads further, by software. RFS: it does so
towards the core on which the receiving shard runs. XPS: the same for sending.
"""

import re
from dataclasses import dataclass

# Interrupts of a card that carry no packets.
NOT_A_QUEUE = re.compile(r"(config|control|async|event|misc|mgmt|cmd|pages|admin|link|health)", re.IGNORECASE)
FLOW_ENTRIES_MAX = 1 << 20
# What fq holds per queue when nobody says more.
FQ_PACKETS = 10_000


@dataclass(frozen=True)
class Step:
    """One thing to do. `value` is None where `what` is a command that is left to a person."""

    what: str
    value: str | None
    why: str

    def is_done(self, host):
        """Whether the file says so already."""
        return self.value is not None and _same(host.read(self.what), self.value)

    def command(self):
        """As a line of a shell."""
        return self.what if self.value is None else f"echo {self.value} > {self.what}"


@dataclass(frozen=True)
class Card:
    """One interface that has hardware behind it."""

    name: str
    rx_queues: int
    tx_queues: int
    # Those that carry packets: (number, label), in the order of their queues.
    interrupts: tuple


def cards(host):
    """All of them."""
    return [_card(host, name) for name in host.names("/sys/class/net") if host.exists(f"/sys/class/net/{name}/device")]


def online_cores(host):
    """The numbers of the cores, from a list such as 0-3,6."""
    cores = []
    for part in (host.read("/sys/devices/system/cpu/online") or "0").split(","):
        first, _, last = part.partition("-")
        cores.extend(range(int(first), int(last or first) + 1))
    return cores


def advice(host, card, cores, connections):
    """What to do for one card, each with its reason."""
    return [*_interrupts(card, cores), *_receive(card, cores, connections), *_transmit(card, cores), *_by_hand(host, card, connections)]


def mask(cores):
    """Cores as the kernel writes them: hexadecimal, in groups of 32 bits."""
    bits = sum(1 << core for core in cores)
    groups = []
    while bits or not groups:
        groups.append(bits & 0xFFFFFFFF)
        bits >>= 32
    return ",".join([f"{groups[-1]:x}", *(f"{group:08x}" for group in reversed(groups[:-1]))])


def flow_entries(connections):
    """Entries of the table of flows: one per connection, a power of two."""
    return min(FLOW_ENTRIES_MAX, max(1 << 15, 1 << (connections - 1).bit_length()))


def _card(host, name):
    queues = host.names(f"/sys/class/net/{name}/queues")
    labels = _labels(host)
    device = f"/sys/class/net/{name}/device"
    # virtio devices have their interrupts one level up, at the PCI device that carries them.
    numbers = host.names(f"{device}/msi_irqs") or host.names(f"{device}/../msi_irqs")
    known = [(int(n), labels[int(n)]) for n in numbers if n.isdigit() and int(n) in labels]
    return Card(
        name=name,
        rx_queues=sum(queue.startswith("rx-") for queue in queues),
        tx_queues=sum(queue.startswith("tx-") for queue in queues),
        interrupts=tuple(sorted(i for i in known if not NOT_A_QUEUE.search(i[1]))),
    )


def _labels(host):
    """Interrupt number -> name of who asked for it."""
    labels = {}
    for line in (host.read("/proc/interrupts") or "").splitlines():
        match = re.match(r"\s*(\d+):.*\s(\S+)$", line)
        if match:
            labels[int(match[1])] = match[2]
    return labels


def _interrupts(card, cores):
    """Queue i to core i. Cards with a receive and a transmit interrupt per queue get both on the same core."""
    if len(cores) < 2:
        return
    queues = {}
    for number, label in card.interrupts:
        index = re.search(r"(\d+)$", label)
        queue = int(index[1]) if index else len(queues)
        queues.setdefault(queue, len(queues))
        core = cores[queues[queue] % len(cores)]
        yield Step(
            f"/proc/irq/{number}/smp_affinity_list", str(core),
            f"{label}: one core per queue, so that one core is not the bottleneck of all.",
        )  # fmt: skip


def _receive(card, cores, connections):
    spread = 0 < card.rx_queues < len(cores)
    entries = flow_entries(connections)
    if len(cores) > 1 and card.rx_queues:
        yield Step(
            "/proc/sys/net/core/rps_sock_flow_entries", str(entries),
            "RFS: remembers for each connection on which core its shard reads it, and has its packets worked off there.",
        )  # fmt: skip
    for queue in range(card.rx_queues if len(cores) > 1 else 0):
        folder = f"/sys/class/net/{card.name}/queues/rx-{queue}"
        yield Step(f"{folder}/rps_flow_cnt", str(max(1, entries // card.rx_queues)), "RFS: the part of that table for this queue.")
        yield Step(
            f"{folder}/rps_cpus", mask(cores if spread else []),
            f"RPS: {card.rx_queues} queue(s) for {len(cores)} cores, so software spreads the rest." if spread
            else "No RPS: the card has a queue for every core; spreading again would only move packets between caches.",
        )  # fmt: skip


def _transmit(card, cores):
    if card.tx_queues < 2:
        return
    for queue in range(card.tx_queues):
        mine = [core for i, core in enumerate(cores) if i % card.tx_queues == queue]
        if mine:
            yield Step(
                f"/sys/class/net/{card.name}/queues/tx-{queue}/xps_cpus", mask(mine),
                "XPS: each core sends through a queue of its own and takes no lock of another.",
            )  # fmt: skip


def _by_hand(host, card, connections):
    if any(host.read(f"/proc/{pid}/comm") == "irqbalance" for pid in host.names("/proc") if pid.isdigit()):
        yield Step("systemctl disable --now irqbalance", None, "irqbalance is running, and would move the interrupts again.")
    if connections > FQ_PACKETS:
        parent = "root" if card.tx_queues < 2 else "parent :1  # and :2, :3, ... one per transmit queue"
        yield Step(
            f"tc qdisc replace dev {card.name} {parent.replace('  #', f' fq limit {connections}  #') if '#' in parent else f'{parent} fq limit {connections}'}",
            None,
            f"A message to everybody is {connections:,} packets at once; fq drops what goes beyond {FQ_PACKETS:,}, and TCP has to send it again.",
        )
    yield Step(f"ethtool -g {card.name}", None, "Ring sizes: raise rx to the maximum shown (ethtool -G) where rx_dropped or rx_missed grow (ethtool -S).")
    yield Step(f"ethtool -C {card.name} adaptive-rx on", None, "Many small packets: let the card gather them under load, and answer at once when it is calm.")


def _same(present, wanted):
    """Masks may come with leading zeros."""
    if present is None:
        return False
    return present.replace(",", "").lstrip("0") == wanted.replace(",", "").lstrip("0")
