"""tuning/nic on machines made of files: who gets which core, and that it only prints unless told."""

import pytest
from ringgate_tuning import cards


def card(scratch, *, queues, cores, name="eth0", virtio=False):
    """A network card with as many queues, and an interrupt per queue (virtio: two)."""
    scratch.write("/sys/devices/system/cpu/online", f"0-{cores - 1}\n" if cores > 1 else "0\n")
    scratch.write(f"/sys/class/net/{name}/device/vendor", "0x1\n")
    lines = ["           CPU0\n", " 29:  0  PCI-MSIX  0-edge  virtio2-config\n" if virtio else f" 29:  0  PCI-MSIX  0-edge  {name}-async\n"]
    numbers = [29]
    for queue in range(queues):
        for label in (f"virtio2-input.{queue}", f"virtio2-output.{queue}") if virtio else (f"{name}-TxRx-{queue}",):
            number = numbers[-1] + 1
            numbers.append(number)
            lines.append(f" {number}:  0  PCI-MSIX  {number}-edge  {label}\n")
        scratch.write(f"/sys/class/net/{name}/queues/rx-{queue}/rps_cpus", "00\n")
        scratch.write(f"/sys/class/net/{name}/queues/rx-{queue}/rps_flow_cnt", "0\n")
        scratch.write(f"/sys/class/net/{name}/queues/tx-{queue}/xps_cpus", "00\n")
    scratch.write("/proc/interrupts", "".join(lines))
    for number in numbers:
        scratch.write(f"/proc/irq/{number}/smp_affinity_list", "63\n")
        scratch.write(f"/sys/class/net/{name}/device/msi_irqs/{number}", "msix\n")


def affinity(scratch, number):
    return scratch.read(f"/proc/irq/{number}/smp_affinity_list").strip()


def queue_file(scratch, queue, name):
    return scratch.read(f"/sys/class/net/eth0/queues/{queue}/{name}").strip()


@pytest.mark.parametrize(
    "cores, text",
    [([0], "1"), ([], "0"), ([0, 1, 2, 3], "f"), ([31], "80000000"), ([32], "1,00000000"), ([0, 64], "1,00000000,00000001")],
)
def test_masks(cores, text):
    assert cards.mask(cores) == text


@pytest.mark.parametrize("connections, entries", [(1, 32_768), (32_768, 32_768), (100_000, 131_072), (5_000_000, 1_048_576)])
def test_the_table_of_flows_has_an_entry_per_connection(connections, entries):
    assert cards.flow_entries(connections) == entries


def test_it_only_prints_unless_told(scratch):
    card(scratch, queues=1, cores=4)
    before = scratch.settings(), {str(p): p.read_text() for p in scratch.root.rglob("*") if p.is_file()}
    result = scratch.run("nic")
    assert result.returncode == 0
    assert "echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus" in result.stdout
    assert "# RPS: 1 queue(s) for 4 cores" in result.stdout
    assert (scratch.settings(), {str(p): p.read_text() for p in scratch.root.rglob("*") if p.is_file()}) == before


def test_few_queues_are_spread_by_software(scratch):
    card(scratch, queues=2, cores=4)
    assert scratch.run("nic", "--apply").returncode == 0
    assert [affinity(scratch, n) for n in (29, 30, 31)] == ["63", "0", "1"], "the one that carries no packets stays"
    assert scratch.get("net.core.rps_sock_flow_entries") == "131072"
    for queue, senders in ((0, "5"), (1, "a")):
        assert queue_file(scratch, f"rx-{queue}", "rps_cpus") == "f"
        assert queue_file(scratch, f"rx-{queue}", "rps_flow_cnt") == "65536"
        assert queue_file(scratch, f"tx-{queue}", "xps_cpus") == senders


def test_with_a_queue_for_every_core_nothing_is_spread_again(scratch):
    card(scratch, queues=4, cores=4)
    assert scratch.run("nic", "--apply").returncode == 0
    assert [affinity(scratch, n) for n in (30, 31, 32, 33)] == ["0", "1", "2", "3"]
    assert [queue_file(scratch, f"rx-{queue}", "rps_cpus").strip("0") for queue in range(4)] == [""] * 4


def test_both_interrupts_of_a_virtio_queue_go_to_one_core(scratch):
    card(scratch, queues=2, cores=2, virtio=True)
    assert scratch.run("nic", "--apply").returncode == 0
    assert [affinity(scratch, n) for n in (29, 30, 31, 32, 33)] == ["63", "0", "0", "1", "1"]


def test_a_second_run_finds_it_done(scratch):
    card(scratch, queues=2, cores=4)
    scratch.run("nic", "--apply")
    lines = scratch.run("nic").stdout.splitlines()
    assert [line for line in lines if not line.startswith("#")] == []


def test_one_core_has_nothing_to_spread(scratch):
    card(scratch, queues=1, cores=1)
    out = scratch.run("nic").stdout
    assert "One core: there is nothing to spread." in out and "rps_cpus" not in out


def test_the_scheduler_must_hold_a_message_to_everybody(scratch):
    card(scratch, queues=1, cores=2)
    assert "tc qdisc replace dev eth0 root fq limit 250000" in scratch.run("nic", "--connections", "250000").stdout
    assert "tc qdisc" not in scratch.run("nic", "--connections", "5000").stdout


def test_irqbalance_would_undo_it(scratch):
    card(scratch, queues=1, cores=2)
    assert "irqbalance" not in scratch.run("nic").stdout
    scratch.write("/proc/55/comm", "irqbalance\n")
    assert "systemctl disable --now irqbalance" in scratch.run("nic").stdout


def test_a_container_without_cards_is_no_error(scratch):
    result = scratch.run("nic")
    assert result.returncode == 0 and "do this on the host" in result.stdout


def test_interfaces_can_be_named(scratch):
    card(scratch, queues=1, cores=2)
    assert "# eth0:" in scratch.run("nic", "eth0").stdout
    result = scratch.run("nic", "eth9")
    assert result.returncode == 2 and "no network card eth9; there are: eth0" in result.stderr


def test_a_failure_is_told(scratch):
    card(scratch, queues=1, cores=2)
    path = scratch.path("/sys/class/net/eth0/queues/rx-0/rps_cpus")
    path.unlink()
    path.symlink_to("/proc/sys/kernel/ostype")
    result = scratch.run("nic", "--apply")
    assert result.returncode == 1 and "# failed: echo 3 > " in result.stdout
