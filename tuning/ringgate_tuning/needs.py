"""What so many connections need, and what of it runs out first. Pure: facts in, findings out."""

from dataclasses import dataclass

from .words import count, size

# At rest: process memory of an authenticated connection that is a member of a room, and kernel memory of its socket (file, dentry,
# inode, TCP state, poll). The load bench measures both (benches/README.md); the rest of the sum is for short bursts.
PROCESS_BYTES = 1024
KERNEL_BYTES = 4300
BURST_BYTES = 768
TRACKED_BYTES = 320
# Besides connections: code, rings, mesh queues, scratch, per shard.
BASE_BYTES = 64 << 20
SHARD_BYTES = 16 << 20
# Descriptors of a table that are not clients, as the gateway itself counts them (src/io/fd_table.rs).
RESERVED_FILES = 128
RESERVED_FILES_PER_SHARD = 16
# Users are spread over the shards by a hash: the fullest one has a little more than its share.
SPREAD = 0.97
PAGE_BYTES = 4096
# Connections per chain of the kernel's TCP table up to which looking one up costs nothing that one would notice.
PER_CHAIN = 4
# The part of all clients that knocks in the same moment when everybody comes back.
AT_ONCE = 10
DEFAULT_CONNECTIONS = 100_000
DEFAULT_BACKLOG = 4096


@dataclass(frozen=True)
class Finding:
    """One resource."""

    what: str
    # Connections at which it is used up; None: it does not bound them.
    capacity: int | None
    have: str
    need: str
    # What happens then, and what to do about it.
    then: str
    # Without it connections are refused or lost; otherwise things get slow.
    hard: bool = True

    def is_short(self, connections):
        """Whether it does not last for so many."""
        return self.capacity is not None and self.capacity < connections


@dataclass(frozen=True)
class Plan:
    """How the gateway is to be run."""

    connections: int
    shards: int
    fd_tables: str
    driver: str


def plan(machine, connections=None, shards=None, fd_tables=None, driver=None):
    """The plan: arguments first, then the configuration file, then the defaults of the gateway."""
    config = machine.config
    return Plan(
        connections=connections or config.get("limits.connections") or DEFAULT_CONNECTIONS,
        shards=shards or config.get("shards.count") or machine.cores,
        fd_tables=fd_tables or config.get("shards.fd_tables") or "auto",
        driver=driver or config.get("shards.driver") or "auto",
    )


def findings(machine, plan):
    """Every bound, the one that is reached first at the front."""
    makers = (_configured, _descriptors, _files, _memory, _tcp_memory, _tracking, _watches, _hash, _backlog)
    found = [finding for maker in makers if (finding := maker(machine, plan)) is not None]
    return sorted(found, key=lambda finding: (finding.capacity is None, finding.capacity))


def notes(machine, plan):
    """What else to know, in whole sentences."""
    out = []
    if machine.io_uring_forbidden and plan.driver != "epoll":
        out.append(f"The gateway will run on epoll, not io_uring: {machine.io_uring_forbidden}. It serves the same, a little slower.")
    tables = _tables(machine, plan)
    if tables > 1:
        out.append(f"Each of the {tables} shards gets a descriptor table of its own (shards.fd_tables), so the limit counts {tables} times.")
    if machine.ports:
        ports = machine.ports[1] - machine.ports[0] + 1
        if ports < plan.connections:
            out.append(
                f"A proxy or load generator reaches one listening address from one source address at most {count(ports)} times "
                f"(net.ipv4.ip_local_port_range): {count(plan.connections)} connections through it need {-(-plan.connections // ports)} "
                "source addresses. Clients that come by themselves do not."
            )
    per_ip = machine.config.get("limits.connections_per_ip", 100)
    if per_ip and not machine.config.get("listen.trusted_proxies"):
        out.append(
            f"One client address may open {count(per_ip)} connections per window (limits.connections_per_ip). Behind a proxy all "
            "clients have its address: name it in listen.trusted_proxies. For a load test set the limit to 0."
        )
    return out


def _configured(machine, plan):
    limit = machine.config.get("limits.connections", DEFAULT_CONNECTIONS)
    if not limit or limit >= plan.connections:
        return None
    return Finding(
        "the gateway's own limit", limit, f"limits.connections = {count(limit)}", count(plan.connections),
        f"The gateway answers 503. Set limits.connections = {plan.connections} (0: no limit).",
    )  # fmt: skip


def _reserved(plan):
    return RESERVED_FILES + RESERVED_FILES_PER_SHARD * plan.shards


def _tables(machine, plan):
    """How many descriptor tables the gateway will have."""
    if machine.nofile is None or plan.fd_tables == "shared":
        return 1
    binds = machine.nofile < plan.connections + _reserved(plan)
    return plan.shards if plan.fd_tables == "private" or binds else 1


def _descriptors(machine, plan):
    if machine.nofile is None:
        return None
    tables, reserved = _tables(machine, plan), _reserved(plan)
    each = max(0, machine.nofile - reserved)
    capacity = int(each * tables * SPREAD) if tables > 1 else each
    need = reserved + (int(plan.connections / tables / SPREAD) + 1 if tables > 1 else plan.connections)
    of_each = " in each of the shards' tables" if tables > 1 else ""
    then = f"New clients are turned away at once. Raise LimitNOFILE= in the unit (or ulimit -Hn) to {need}"
    if machine.nr_open is not None and need > machine.nr_open:
        then += f", and before that fs.nr_open, which allows {count(machine.nr_open)}"
    if plan.fd_tables == "shared":
        then += '; or let shards.fd_tables = "auto" give every shard a table of its own'
    elif (shards := _shards_for(machine, plan)) is not None:
        then += f"; or start more shards, each with its own table: shards.count = {shards}"
    return Finding(
        "descriptors of the process", capacity, f"{count(machine.nofile)} {machine.nofile_whose}", f"{count(need)}{of_each}", then + ".",
    )  # fmt: skip


def _shards_for(machine, plan):
    shards = plan.shards
    while shards < 256:
        own = RESERVED_FILES + RESERVED_FILES_PER_SHARD * shards
        if (machine.nofile - own) * shards * SPREAD >= plan.connections:
            return shards
        shards += 1
    return None


def _files(machine, plan):
    if machine.file_max is None:
        return None
    own = _reserved(plan)
    return Finding(
        "files of the whole machine", max(0, machine.file_max - machine.file_used - own),
        f"{count(machine.file_max)}, {count(machine.file_used)} in use", f"{count(plan.connections + own)} more",
        "Nobody on this machine can open a file any more. Raise fs.file-max.",
    )  # fmt: skip


def _memory(machine, plan):
    amounts = [amount for amount in (machine.memory_available, machine.cgroup_available) if amount is not None]
    if not amounts:
        return None
    each = PROCESS_BYTES + KERNEL_BYTES + BURST_BYTES + (TRACKED_BYTES if machine.conntrack_max else 0)
    base = BASE_BYTES + SHARD_BYTES * plan.shards
    in_cgroup = machine.cgroup_available == min(amounts)
    return Finding(
        "memory", max(0, min(amounts) - base) // each,
        f"{size(min(amounts))} free{' in this control group' if in_cgroup else ''}", size(plan.connections * each + base),
        f"The kernel kills a process, most likely the gateway. Each connection takes about {size(each)} at rest, two thirds of it in "
        f"the kernel; slow readers take more, up to outbox.shard_budget on each shard. "
        + ("Raise the memory limit of the container." if in_cgroup else "More memory, or fewer connections per machine."),
    )  # fmt: skip


def _tcp_memory(machine, plan):
    if machine.tcp_mem is None:
        return None
    return Finding(
        "buffers of all TCP sockets", machine.tcp_mem[1], f"{size(machine.tcp_mem[1] * PAGE_BYTES)} (net.ipv4.tcp_mem)",
        size(plan.connections * PAGE_BYTES),
        "A message to everybody puts a page into every socket; beyond this the kernel shrinks buffers, then drops packets, and "
        "deliveries stall for seconds. Raise net.ipv4.tcp_mem (in pages).",
        hard=False,
    )  # fmt: skip


def _tracking(machine, plan):
    if machine.conntrack_max is None:
        return None
    return Finding(
        "connection tracking of the firewall", max(0, machine.conntrack_max - machine.conntrack_used),
        f"{count(machine.conntrack_max)} entries, {count(machine.conntrack_used)} in use", f"{count(plan.connections)} more",
        "New packets are dropped without a word: clients time out while connecting. Raise net.netfilter.nf_conntrack_max, or do not "
        "track the client port at all (a notrack rule).",
    )  # fmt: skip


def _watches(machine, plan):
    on_epoll = plan.driver == "epoll" or machine.io_uring_forbidden
    if machine.epoll_watches is None or not on_epoll:
        return None
    return Finding(
        "epoll watches of the gateway's user", machine.epoll_watches, count(machine.epoll_watches), count(plan.connections),
        "New clients are turned away. Raise fs.epoll.max_user_watches.",
    )  # fmt: skip


def _hash(machine, plan):
    if machine.tcp_hash_chains is None or machine.tcp_hash_chains <= 0:
        return None
    return Finding(
        "the kernel's table of TCP connections", machine.tcp_hash_chains * PER_CHAIN, f"{count(machine.tcp_hash_chains)} chains",
        f"{count(-(-plan.connections // PER_CHAIN))} chains",
        "Every packet searches a longer chain. Set thash_entries= on the kernel's command line, and restart.",
        hard=False,
    )  # fmt: skip


def _backlog(machine, plan):
    if machine.somaxconn is None:
        return None
    configured = machine.config.get("listen.backlog", DEFAULT_BACKLOG)
    each = min(machine.somaxconn, configured)
    bound = "net.core.somaxconn" if machine.somaxconn <= configured else "listen.backlog"
    return Finding(
        "places to wait for being accepted", each * plan.shards * AT_ONCE, f"{count(each)} on each of {plan.shards} shards ({bound})",
        f"{count(-(-plan.connections // AT_ONCE // plan.shards))} on each",
        "When all clients come back in the same second, some connect only at their second or third try, seconds later. Raise "
        "net.core.somaxconn and listen.backlog.",
        hard=False,
    )  # fmt: skip
